// What this build can do on this machine.
#pragma once

#include <string>
#include <vector>

#include "fastmaml.hpp"

namespace fastmaml {

// Instruction set whose kernels run: "v4", "v3", "v2" (x86-64 levels) or "generic".
std::string instruction_set();
// Forces one for tests; throws SettingError when the machine or the build lacks it.
void force_instruction_set(const std::string& name);
std::vector<std::string> available_instruction_sets();
// Measured fused multiply-add rate of `threads` threads together, in FLOP/s.
double peak_flops(Dtype dtype, int threads);
// Why no CUDA device can be used by this build, or "".
std::string device_absence();
// The most shared memory of a block of a CUDA device, in bytes.
int64_t device_shared_limit(int device);

}  // namespace fastmaml
