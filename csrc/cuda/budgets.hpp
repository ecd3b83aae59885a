// What a kernel may take of a multiprocessor: registers of a thread, for each kind of instruction
// and dtype, on every architecture. tests/test_nvcc.py reads the tables and holds the compiler to
// them; no kernel may spill, or have a stack, or shared memory other than what launches give it.
//
// A budget is what the compiler takes today, rounded up to the next 8, registers being dealt out by
// eights: a change that passes it should be a decision.
#pragma once

#include <string_view>

#include "cuda/call.hpp"

namespace fastmaml {

// Blocks that a multiprocessor must be able to hold: the compiler takes all registers it may
// otherwise.
template <class T>
constexpr int kBlocksHeld = sizeof(T) == sizeof(float) ? 2 : 1;

struct RegisterBudget {
  const char* kernel;  // the arguments of instruction_kernel, or the kernel's own name
  int f32, f64;        // 0: there is no such kernel
};

constexpr RegisterBudget kRegisterBudgets[] = {
    {"DeviceContractArgs", 128, 192},
    {"TransposeArgs", 64, 64},
    {"PointwiseArgs", 48, 64},
    {"BatchNormArgs", 128, 144},
    {"MseArgs", 72, 96},
    {"CrossEntropyArgs", 80, 112},
    {"BceWithLogitsArgs", 40, 56},
    {"DeviceConvArgs", 128, 208},
    {"PermuteArgs", 48, 48},
    {"DevicePoolArgs", 40, 48},
    {"GroupNormArgs", 128, 168},
    {"TapArgs", 72, 96},
    {"DevicePatchArgs", 128, 168},
    {"StemArgs", 112, 112},
    {"resident", 168, 216},
    {"DeviceContractArgs_tf32", 128, 0},
    {"DeviceConvArgs_tf32", 128, 0},
    {"DeviceContractArgs_split_high", 128, 0},
    {"DeviceContractArgs_split_narrow", 128, 0},
    {"DeviceContractArgs_split_others", 128, 0},
    {"DeviceConvArgs_split_high", 128, 0},
    {"DeviceConvArgs_split_narrow", 128, 0},
    {"DeviceConvArgs_split_others", 128, 0},
    {"DeviceConvArgs_split_weights", 128, 0},
    {"write_words", 40, 0},
};

// Registers of a multiprocessor, and the shared memory that a block has without asking for more;
// the resident kernel asks, and looks first what the device has.
constexpr int kRegisters = 65536, kSharedBytes = 48 * 1024;

constexpr bool holds_its_blocks() {
  for (const RegisterBudget& budget : kRegisterBudgets) {
    // A resident block has the multiprocessor for itself, for want of shared memory.
    const int held = std::string_view(budget.kernel) == "resident" ? 1 : kBlocksHeld<float>;
    if (budget.f32 * kThreads * held > kRegisters) return false;
    if (budget.f64 * kThreads * kBlocksHeld<double> > kRegisters) return false;
  }
  return true;
}
static_assert(holds_its_blocks());
static_assert(kTileBytes<double> <= kSharedBytes && kInstructionBytes<double> <= kSharedBytes);

}  // namespace fastmaml
