// Sums and maxima over the lanes of a warp and the threads of a block, in one fixed order.
#pragma once

#include "cuda/device.cuh"

namespace fastmaml::device {

constexpr int kWarp = 32, kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Plus {
  template <class T>
  FASTMAML_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  FASTMAML_DEVICE T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};

// Every lane gets the result.
template <class T, class Join>
FASTMAML_DEVICE T over_warp(T value, Join join) {
#pragma unroll
  for (int apart = kWarp / 2; apart > 0; apart /= 2)
    value = join(value, __shfl_xor_sync(kAllLanes, value, apart));
  return value;
}

// Every thread gets the sum. `memory` has room for a number of each warp and is free again after.
template <class T>
FASTMAML_DEVICE T block_sum(T value, T* memory) {
  value = over_warp(value, Plus{});
  if (threadIdx.x % kWarp == 0) memory[threadIdx.x / kWarp] = value;
  __syncthreads();
  T total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += memory[warp];
  __syncthreads();
  return total;
}

}  // namespace fastmaml::device
