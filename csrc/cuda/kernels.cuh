// The kernels: one for each alternative of Args and dtype (add an op: one include here, and its
// line in cuda/budgets.hpp). Compiled once for each dtype, by kernels_f32.cu and kernels_f64.cu.
#pragma once

#include <utility>

#include "cuda/budgets.hpp"
#include "cuda/instruction.cuh"
#include "cuda/kernels.hpp"
#include "cuda/known.cuh"
#include "cuda/lower.hpp"
#include "ops/batch_norm/batch_norm_cuda.cuh"
#include "ops/bce_with_logits/bce_with_logits_cuda.cuh"
#include "ops/contract/contract_cuda.cuh"
#include "ops/conv2d/conv2d_cuda.cuh"
#include "ops/cross_entropy/cross_entropy_cuda.cuh"
#include "ops/group_norm/group_norm_cuda.cuh"
#include "ops/mse/mse_cuda.cuh"
#include "ops/patches/patches_cuda.cuh"
#include "ops/permute/permute_cuda.cuh"
#include "ops/pointwise/pointwise_cuda.cuh"
#include "ops/pool2d/pool2d_cuda.cuh"
#include "ops/stem/stem_cuda.cuh"
#include "ops/taps/taps_cuda.cuh"
#include "ops/transpose/transpose_cuda.cuh"

namespace fastmaml::device {
namespace {

template <class T, class A>
DeviceKernel entry() {
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
