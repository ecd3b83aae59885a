// bce_with_logits on the device. One block sums a task's loss; cotangents are a thread a number.
#pragma once

#include "cuda/sums.cuh"
#include "ops/bce_with_logits/bce_with_logits.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<BceWithLogitsArgs> = {40, 56};

template <class T>
FASTMAML_DEVICE void run_pass(const BceWithLogitsArgs& args, const Block& block, int64_t task) {
  const T* x = address<T>(block, args.x, task);
  const T* t = address_or_null<T>(block, args.t, task);
  const T* x_dot = address_or_null<T>(block, args.x_dot, task);
  const T* cin = address_or_null<T>(block, args.cin, task);
  T* out = address<T>(block, args.out, task);
  const T weight = static_cast<T>(args.weight), bar = block.scalar<T>(args.seed) * weight;
  if (args.pass == PassKind::backward || args.pass == PassKind::backward_jvp) {
    for (int64_t i = block.first_thread(); i < args.n; i += block.all_threads()) {
      const Logistic<T> s = logistic<T>(x[i]);
      const T d = args.pass == PassKind::backward ? s.s - t[i] : s.s * s.q * x_dot[i];
      out[i] = d * bar + load_or(cin, i, T(0));
    }
    return;
  }
  if (block.rank > 0) return;
  T total = sum_share<T, kThreads, 1>(threadIdx.x, args.n,
                                      [&](int64_t i) { return softplus<T>(x[i]) - x[i] * t[i]; });
  Carve carve(block);
  total = block_sum(total, carve.take<T>(kWarps));
  if (threadIdx.x == 0) *out = total * weight;
}

inline int64_t units(const BceWithLogitsArgs& args) { return (args.n + kThreads - 1) / kThreads; }

}  // namespace fastmaml::device
