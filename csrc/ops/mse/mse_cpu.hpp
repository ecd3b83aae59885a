// mse on the CPU. One thread sums a task's loss from end to end; cotangents are split by task too.
#pragma once

#include "cpu/context.hpp"
#include "cpu/sums.hpp"
#include "ops/mse/mse.hpp"

namespace fastmaml::FASTMAML_ISA {

template <class T>
void run_task(const MseArgs& args, const Context& context, int64_t task) {
  const T* x = address_or_null<T>(context, args.x, task);
  const T* t = address_or_null<T>(context, args.t, task);
  const T* x_dot = address_or_null<T>(context, args.x_dot, task);
  const T* cin = address_or_null<T>(context, args.cin, task);
  T* out = address<T>(context, args.out, task);
  const T weight = static_cast<T>(args.weight);
  const T bar = static_cast<const T*>(context.scalars)[args.seed] * weight * 2;
  const auto error = [&](int64_t i, Lanes<T> l) { return l.load(x + i) - l.load(t + i); };
  switch (args.pass) {
    case PassKind::forward:
      *out = weight * sum_lanes<T>(args.n, [&](int64_t i, Lanes<T> l) {
               const Vec<T> e = error(i, l);
               return e * e;
             });
      return;
    case PassKind::forward_jvp:  // nobody asks for it
      return;
    case PassKind::backward:
      return for_lanes<T>(0, args.n, [&](int64_t i, Lanes<T> l) {
        l.store(out + i, error(i, l) * bar + l.load_or(cin, i, T(0)));
      });
    case PassKind::backward_jvp:
      return for_lanes<T>(0, args.n, [&](int64_t i, Lanes<T> l) {
        l.store(out + i, l.load(x_dot + i) * bar + l.load_or(cin, i, T(0)));
      });
  }
}

template <class T>
void run_kernel(const MseArgs& args, const Context& context) {
  const Share share(context, context.tasks);
  for (int64_t task = share.begin; task < share.end; ++task) run_task<T>(args, context, task);
}

}  // namespace fastmaml::FASTMAML_ISA
