// pointwise on the CPU: the four passes, derived from each function's value, slope and curve.
//
// Tasks whose numbers touch are one long vector.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "cpu/math.hpp"
#include "ops/pointwise/pointwise.hpp"
#include "ops/pointwise/pointwise_functions.hpp"

namespace fastmaml::FASTMAML_ISA {

// One task's operands, or those of all tasks where they touch; null where absent.
template <class T>
struct PointwiseMemory {
  const T *z, *y_bar, *x_dot, *y_bar_dot, *cin;
  T* out;

  PointwiseMemory(const PointwiseArgs& args, const Context& context, int64_t task)
      : z(address_or_null<T>(context, args.z, task)),
        y_bar(address_or_null<T>(context, args.y_bar, task)),
        x_dot(address_or_null<T>(context, args.x_dot, task)),
        y_bar_dot(address_or_null<T>(context, args.y_bar_dot, task)),
        cin(address_or_null<T>(context, args.cin, task)),
        out(address_or_null<T>(context, args.out, task)) {}
};

template <class T, class F>
void run_range(const F& f, PassKind pass, const PointwiseMemory<T>& m, int64_t begin, int64_t end) {
  switch (pass) {
    case PassKind::forward:
      for_lanes<T>(begin, end,
                   [&](int64_t i, Lanes<T> l) { l.store(m.out + i, f.value(l.load(m.z + i))); });
      break;
    case PassKind::backward:
    case PassKind::forward_jvp: {
      const T* in = pass == PassKind::backward ? m.y_bar : m.x_dot;
      for_lanes<T>(begin, end, [&](int64_t i, Lanes<T> l) {
        Vec<T> out = f.slope(l.load(m.z + i)) * l.load(in + i);
        if (m.cin) out += l.load(m.cin + i);
        l.store(m.out + i, out);
      });
      break;
    }
    case PassKind::backward_jvp:
      for_lanes<T>(begin, end, [&](int64_t i, Lanes<T> l) {
        const Vec<T> z = l.load(m.z + i);
        Vec<T> out = f.slope(z) * l.load(m.y_bar_dot + i);
        if constexpr (F::kCurved) out += f.curve(z) * l.load(m.x_dot + i) * l.load(m.y_bar + i);
        if (m.cin) out += l.load(m.cin + i);
        l.store(m.out + i, out);
      });
      break;
  }
}

template <class T, class F>
void run_pointwise(const F& f, const PointwiseArgs& args, const Context& context) {
  bool touching = true;
  for (const Operand* o :
       {&args.z, &args.y_bar, &args.x_dot, &args.y_bar_dot, &args.cin, &args.out})
    touching = touching && (!*o || o->stride == args.n);
  const int64_t total = context.tasks * args.n, n = touching ? total : args.n;
  const Share share(context, total, kWidth<T>);
  for (int64_t i = share.begin; i < share.end;) {
    const int64_t task = i / n, begin = i - task * n;
    const int64_t end = share.end - task * n < n ? share.end - task * n : n;
    run_range<T>(f, args.pass, PointwiseMemory<T>(args, context, task), begin, end);
    i = task * n + end;
  }
}

template <class T>
void run_kernel(const PointwiseArgs& args, const Context& context) {
  with_function<T>(args, [&](const auto& f) { run_pointwise<T>(f, args, context); });
}

}  // namespace fastmaml::FASTMAML_ISA
