// The kernels: one for each alternative of Args (which follow ops/list.hpp) and dtype. Compiled
// once for each dtype, by kernels_f32.cu and kernels_f64.cu.
#pragma once

#include <utility>

#include "cuda/instruction.cuh"
#include "cuda/kernels.hpp"
#include "cuda/known.cuh"
#include "cuda/lower.hpp"
#define FASTMAML_OP_FILE(op) FASTMAML_PATH(op, op##_cuda.cuh)
#include "ops/list.hpp"

namespace fastmaml::device {
namespace {

template <class T, class A>
DeviceKernel entry() {
  static_assert(has_a_budget<A>(), "kRegisterBudget of these arguments, beside their kernel");
  constexpr bool kTiles =
      std::is_same_v<A, DeviceContractArgs> || std::is_same_v<A, DeviceConvArgs>;
  return {known(&instruction_kernel<T, A>), kTiles ? kTileBytes<T> : kInstructionBytes<T>,
          [](const void* args) { return units(*static_cast<const A*>(args)); }};
}

template <class T, size_t... I>
DeviceKernelTable make_table(std::index_sequence<I...>) {
  return {{entry<T, DeviceArgs<ArgsAt<I>>>()...}};
}
template <class T>
DeviceKernelTable make_table() {
  return make_table<T>(std::make_index_sequence<kArgsCount>{});
}

}  // namespace
}  // namespace fastmaml::device
