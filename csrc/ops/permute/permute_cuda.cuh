// permute on the device: a thread a number of the output.
#pragma once

#include "cuda/device.cuh"
#include "ops/permute/permute.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<PermuteArgs> = {48, 48};

template <class T>
FASTMAML_DEVICE void run_pass(const PermuteArgs& args, const Block& block, int64_t task) {
  const int64_t *n = args.size, *s = args.stride;
  const int64_t total = n[0] * n[1] * n[2] * n[3];
  const T* in = address<T>(block, args.in, task);
  const T* cin = address_or_null<T>(block, args.cin, task);
  T* out = address<T>(block, args.out, task);
  for (int64_t i = block.first_thread(); i < total; i += block.all_threads()) {
    int64_t rest = i;
    const int64_t i3 = rest % n[3];
    rest /= n[3];
    const int64_t i2 = rest % n[2];
    rest /= n[2];
    const T value = in[rest / n[1] * s[0] + rest % n[1] * s[1] + i2 * s[2] + i3 * s[3]];
    out[i] = cin ? cin[i] + value : value;
  }
}

inline int64_t units(const PermuteArgs& args) {
  const int64_t total = args.size[0] * args.size[1] * args.size[2] * args.size[3];
  return (total + kThreads - 1) / kThreads;
}

}  // namespace fastmaml::device
