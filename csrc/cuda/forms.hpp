// How devices sum contractions and convolutions: by shapes alone, since the order of a sum depends
// on it. No CUDA here, so that every build can say what a plan would do on a device.
#pragma once

#include "ops/contract/contract_device.hpp"
#include "plan/program.hpp"

namespace fastmaml {

// Of a task.
int64_t contract_depth(const ContractArgs& args);
ContractForm contract_form(const ContractArgs& args);

// Whether an instruction's tiles split the depth among their threads (cuda/tile_split.cuh), and
// which kernel then has them: that of the high tiles, of the narrow ones, of all others, or of the
// high and narrow ones of a convolution's weight. One with more would not have the registers.
enum class DepthSplit : int32_t { none, high, narrow, others, weights };
DepthSplit depth_split(const Settings& settings, const Instruction& instruction);

}  // namespace fastmaml
