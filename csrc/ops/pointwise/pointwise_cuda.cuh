// pointwise on the device: a thread a number.
#pragma once

#include "cuda/scalar.cuh"
#include "ops/pointwise/pointwise.hpp"
#include "ops/pointwise/pointwise_functions.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<PointwiseArgs> = {48, 64};

// One task's operands; null where absent.
template <class T>
struct PointwiseMemory {
  const T *z, *y_bar, *x_dot, *y_bar_dot, *cin;
  T* out;

  FASTMAML_DEVICE PointwiseMemory(const PointwiseArgs& args, const Block& block, int64_t task)
      : z(address_or_null<T>(block, args.z, task)),
        y_bar(address_or_null<T>(block, args.y_bar, task)),
        x_dot(address_or_null<T>(block, args.x_dot, task)),
        y_bar_dot(address_or_null<T>(block, args.y_bar_dot, task)),
        cin(address_or_null<T>(block, args.cin, task)),
        out(address_or_null<T>(block, args.out, task)) {}

  template <class F>
  FASTMAML_DEVICE T value(const F& f, PassKind pass, int64_t i) const {
    switch (pass) {
      case PassKind::forward:
        return f.value(z[i]);
      case PassKind::backward:
        return f.slope(z[i]) * y_bar[i];
      case PassKind::forward_jvp:
        return f.slope(z[i]) * x_dot[i];
      case PassKind::backward_jvp:
        break;
    }
    T total = f.slope(z[i]) * y_bar_dot[i];
    if constexpr (F::kCurved) total += f.curve(z[i]) * x_dot[i] * y_bar[i];
    return total;
  }
};

template <class T>
FASTMAML_DEVICE void run_pass(const PointwiseArgs& args, const Block& block, int64_t task) {
  const PointwiseMemory<T> m(args, block, task);
  with_function<T>(args, [&](const auto& f) {
    for (int64_t i = block.first_thread(); i < args.n; i += block.all_threads()) {
      const T value = m.value(f, args.pass, i);
      m.out[i] = m.cin ? value + m.cin[i] : value;
    }
  });
}

inline int64_t units(const PointwiseArgs& args) { return (args.n + kThreads - 1) / kThreads; }

}  // namespace fastmaml::device
