// cross_entropy on the device: a warp a row. The host cannot look at class indices that lie on a
// device without waiting for it: a row whose index is outside [0, C) gives NaN.
#pragma once

#include <limits>

#include "cuda/sums.cuh"
#include "ops/cross_entropy/cross_entropy.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<CrossEntropyArgs> = {80, 112};

// One row; every lane of the warp holds the same copy.
template <class T>
struct CrossEntropyRow {
  const T *x, *x_dot, *cin;
  T *p, *out;
  int64_t classes, target;
  T smoothing;
  int lane;

  FASTMAML_DEVICE T t(int64_t i) const {
    if (target < 0 || target >= classes) return std::numeric_limits<T>::quiet_NaN();
    const T spread = smoothing / static_cast<T>(classes);
    return i == target ? T(1) - smoothing + spread : spread;
  }
  // The sum over the row's classes.
  template <class Term>
  FASTMAML_DEVICE T sum(Term&& term) const {
    return over_warp(sum_share<T, kWarp>(lane, classes, term), Plus{});
  }
  FASTMAML_DEVICE T max() const {
    T best = x[0];
    for (int64_t i = lane; i < classes; i += kWarp) best = Larger{}(best, x[i]);
    return over_warp(best, Larger{});
  }
  FASTMAML_DEVICE T loss() const {
    const T top = max();
    const T exps = sum([&](int64_t i) { return std::exp(x[i] - top); });
    const T own = target < 0 || target >= classes ? std::numeric_limits<T>::quiet_NaN() : x[target];
    const T loss = std::log(exps) - (T(1) - smoothing) * (own - top);
    if (smoothing == T(0)) return loss;
    const T spread = smoothing / static_cast<T>(classes);
    return loss - spread * sum([&](int64_t i) { return x[i] - top; });
  }
  FASTMAML_DEVICE void backward(T bar) const {
    const T top = max();
    const T exps = sum([&](int64_t i) { return std::exp(x[i] - top); });
    for (int64_t i = lane; i < classes; i += kWarp) {
      const T softmax = std::exp(x[i] - top) / exps;
      p[i] = softmax;
      out[i] = (softmax - t(i)) * bar + load_or(cin, i, T(0));
    }
  }
  FASTMAML_DEVICE void backward_jvp(T bar) const {
    const T mean = sum([&](int64_t i) { return p[i] * x_dot[i]; });
    for (int64_t i = lane; i < classes; i += kWarp)
      out[i] = p[i] * (x_dot[i] - mean) * bar + load_or(cin, i, T(0));
  }
};

template <class T>
FASTMAML_DEVICE CrossEntropyRow<T> row_of(const CrossEntropyArgs& args, const Block& block,
                                          int64_t task, int64_t r) {
  const auto at = [&](const Operand& o) {
    T* p = address_or_null<T>(block, o, task);
    return p ? p + r * args.classes : nullptr;
  };
  const int64_t* c = address_or_null<int64_t>(block, args.c, task);
  return {at(args.x),
          at(args.x_dot),
          at(args.cin),
          at(args.p),
          args.pass == PassKind::forward ? nullptr : at(args.out),
          args.classes,
          c ? c[r] : 0,
          static_cast<T>(args.smoothing),
          static_cast<int>(threadIdx.x) % kWarp};
}

template <class T>
FASTMAML_DEVICE void run_pass(const CrossEntropyArgs& args, const Block& block, int64_t task) {
  const T weight = static_cast<T>(args.weight), bar = block.scalar<T>(args.seed) * weight;
  const int warp = threadIdx.x / kWarp;
  if (args.pass == PassKind::backward || args.pass == PassKind::backward_jvp) {
    for (int64_t r = block.rank * kWarps + warp; r < args.rows; r += block.size * kWarps) {
      const CrossEntropyRow<T> row = row_of<T>(args, block, task, r);
      args.pass == PassKind::backward ? row.backward(bar) : row.backward_jvp(bar);
    }
    return;
  }
  if (block.rank > 0) return;
  T total = sum_share<T, kWarps>(warp, args.rows,
                                 [&](int64_t r) { return row_of<T>(args, block, task, r).loss(); });
  Carve carve(block);
  total = block_sum(threadIdx.x % kWarp == 0 ? total : T(0), carve.take<T>(kWarps));
  if (threadIdx.x == 0) *address<T>(block, args.out, task) = total * weight;
}

inline int64_t units(const CrossEntropyArgs& args) { return (args.rows + kWarps - 1) / kWarps; }

}  // namespace fastmaml::device
