// bce_with_logits on the CPU. One thread takes a task from end to end.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "cpu/math.hpp"
#include "ops/bce_with_logits/bce_with_logits.hpp"

namespace fastmaml::FASTMAML_ISA {

template <class T>
void run_task(const BceWithLogitsArgs& args, const Context& context, int64_t task) {
  const T* x = address<T>(context, args.x, task);
  const T* t = address_or_null<T>(context, args.t, task);
  const T* x_dot = address_or_null<T>(context, args.x_dot, task);
  const T* cin = address_or_null<T>(context, args.cin, task);
  T* out = address<T>(context, args.out, task);
  const T weight = static_cast<T>(args.weight);
  const T bar = static_cast<const T*>(context.scalars)[args.seed] * weight;
  Vec<T> total = splat<T>(0);
  for_lanes<T>(0, args.n, [&](int64_t i, Lanes<T> l) {
    const Vec<T> logits = l.load(x + i);
    switch (args.pass) {
      case PassKind::forward:
        total += l.only(softplus<T>(logits) - logits * l.load(t + i), T(0));
        break;
      case PassKind::backward:
        l.store(out + i, (logistic<T>(logits).s - l.load(t + i)) * bar + l.load_or(cin, i, T(0)));
        break;
      case PassKind::forward_jvp:  // nobody asks for it
        break;
      case PassKind::backward_jvp: {
        const Logistic<T> s = logistic<T>(logits);
        l.store(out + i, s.s * s.q * l.load(x_dot + i) * bar + l.load_or(cin, i, T(0)));
        break;
      }
    }
  });
  if (args.pass == PassKind::forward) *out = sum<T>(total) * weight;
}

template <class T>
void run_kernel(const BceWithLogitsArgs& args, const Context& context) {
  const Share share(context, context.tasks);
  for (int64_t task = share.begin; task < share.end; ++task) run_task<T>(args, context, task);
}

}  // namespace fastmaml::FASTMAML_ISA
