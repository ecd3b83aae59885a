// The kernels of one instruction set, by the index of their alternative in Args.
#pragma once

#include "cpu/context.hpp"
#include "fastmaml.hpp"
#include "ops/args.hpp"

namespace fastmaml {

struct KernelTable {
  Kernel f32[kArgsCount];
  Kernel f64[kArgsCount];
  double (*fma_f32)(int64_t rounds);  // runs multiply-adds and returns how many FLOPs they were
  double (*fma_f64)(int64_t rounds);
};

// The table in force (see force_instruction_set).
const KernelTable& kernels();

}  // namespace fastmaml
