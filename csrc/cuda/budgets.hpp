// What a kernel may take of a multiprocessor: registers of a thread, for each kind of instruction
// and dtype, on every architecture. tests/test_nvcc.py reads the budgets and holds the compiler to
// them; no kernel may spill, or have a stack, or shared memory other than what launches give it.
//
// A budget is what the compiler takes today, rounded up to the next 8, registers being dealt out by
// eights: a change that passes it should be a decision.
#pragma once

#include "cuda/call.hpp"

namespace fastmaml::device {

// Blocks that a multiprocessor must be able to hold: the compiler takes all registers it may
// otherwise.
template <class T>
constexpr int kBlocksHeld = sizeof(T) == sizeof(float) ? 2 : 1;

struct RegisterBudget {
  int f32 = 0, f64 = 0;  // 0: there is no such kernel
};

// Of instruction_kernel, by its arguments: each has its own beside its kernel (_cuda.cuh).
template <class A>
inline constexpr RegisterBudget kRegisterBudget{};

// The others. The last part of a name says how tiles multiply, see cuda/tiles.cuh.
struct NamedBudget {
  const char* kernel;
  RegisterBudget registers;
  int held = kBlocksHeld<float>;  // of f32
};
constexpr NamedBudget kNamedBudgets[] = {
    // A resident block has the multiprocessor for itself, for want of shared memory.
    {"resident", {168, 216}, 1},
    {"DeviceContractArgs_tf32", {128, 0}},
    {"DeviceConvArgs_tf32", {128, 0}},
    {"DeviceContractArgs_split_high", {128, 0}},
    {"DeviceContractArgs_split_narrow", {128, 0}},
    {"DeviceContractArgs_split_others", {128, 0}},
    {"DeviceConvArgs_split_high", {128, 0}},
    {"DeviceConvArgs_split_narrow", {128, 0}},
    {"DeviceConvArgs_split_others", {128, 0}},
    {"DeviceConvArgs_split_weights", {128, 0}},
    {"write_words", {40, 0}},
};

// Registers of a multiprocessor, and the shared memory that a block has without asking for more;
// the resident kernel asks, and looks first what the device has.
constexpr int kRegisters = 65536, kSharedBytes = 48 * 1024;

constexpr bool fits(RegisterBudget budget, int held) {
  return budget.f32 * kThreads * held <= kRegisters &&
         budget.f64 * kThreads * kBlocksHeld<double> <= kRegisters;
}
template <class A>
constexpr bool has_a_budget() {
  constexpr RegisterBudget budget = kRegisterBudget<A>;
  return budget.f32 > 0 && budget.f64 > 0 && fits(budget, kBlocksHeld<float>);
}
constexpr bool named_budgets_fit() {
  for (const NamedBudget& budget : kNamedBudgets)
    if (!fits(budget.registers, budget.held)) return false;
  return true;
}
static_assert(named_budgets_fit());
static_assert(kTileBytes<double> <= kSharedBytes && kInstructionBytes<double> <= kSharedBytes);

}  // namespace fastmaml::device
