// cross_entropy on the CPU. One thread takes a task from end to end, row by row.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "cpu/math.hpp"
#include "ops/cross_entropy/cross_entropy.hpp"

namespace fastmaml::FASTMAML_ISA {

// One row of a task: C logits, tangents, softmax numbers; the target distribution t.
template <class T>
struct CrossEntropyRow {
  const T *x, *x_dot, *cin;
  T *p, *out;
  int64_t classes;
  int64_t target;  // c
  T smoothing;     // e

  FASTMAML_INLINE Vec<T> t(int64_t i) const {
    const T spread = smoothing / static_cast<T>(classes);
    return select<T>(count_up<T>() == static_cast<T>(target - i),
                     splat<T>(T(1) - smoothing + spread), splat<T>(spread));
  }

  FASTMAML_INLINE T max() const {
    Vec<T> best = splat<T>(x[0]);
    for_lanes<T>(0, classes, [&](int64_t i, Lanes<T> l) {
      const Vec<T> v = l.only(l.load(x + i), x[0]);
      best = select<T>(v > best, v, best);
    });
    return largest<T>(best);
  }

  // log sum exp(x) - <t, x>, both taken from the maximum.
  T loss() const {
    const T top = max();
    Vec<T> exps = splat<T>(0), shifted = splat<T>(0);
    for_lanes<T>(0, classes, [&](int64_t i, Lanes<T> l) {
      const Vec<T> v = l.load(x + i) - top;
      exps += l.only(exp<T>(v), T(0));
      shifted += l.only(v, T(0));
    });
    // Checked at the door, but the caller's memory may have changed since.
    const T chosen = target >= 0 && target < classes ? x[target] : T(__builtin_nan(""));
    T loss = log(sum<T>(exps)) - (T(1) - smoothing) * (chosen - top);
    if (smoothing != 0) loss -= smoothing / static_cast<T>(classes) * sum<T>(shifted);
    return loss;
  }

  void backward(T bar) const {
    const T top = max();
    Vec<T> exps = splat<T>(0);
    for_lanes<T>(0, classes, [&](int64_t i, Lanes<T> l) {
      const Vec<T> e = exp<T>(l.load(x + i) - top);
      exps += l.only(e, T(0));
      l.store(p + i, e);
    });
    const T total = sum<T>(exps);
    for_lanes<T>(0, classes, [&](int64_t i, Lanes<T> l) {
      const Vec<T> softmax = l.load(p + i) / total;
      l.store(p + i, softmax);
      l.store(out + i, (softmax - t(i)) * bar + l.load_or(cin, i, T(0)));
    });
  }

  void backward_jvp(T bar) const {
    Vec<T> products = splat<T>(0);
    for_lanes<T>(0, classes,
                 [&](int64_t i, Lanes<T> l) { products += l.load(p + i) * l.load(x_dot + i); });
    const T mean = sum<T>(products);
    for_lanes<T>(0, classes, [&](int64_t i, Lanes<T> l) {
      l.store(out + i, l.load(p + i) * (l.load(x_dot + i) - mean) * bar + l.load_or(cin, i, T(0)));
    });
  }
};

template <class T>
void run_task(const CrossEntropyArgs& args, const Context& context, int64_t task) {
  const volatile int64_t* c = address_or_null<int64_t>(context, args.c, task);  // read once
  const T weight = static_cast<T>(args.weight);
  const T bar = static_cast<const T*>(context.scalars)[args.seed] * weight;
  T* const out = address<T>(context, args.out, task);
  T total = 0;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t i = r * args.classes;
    const auto at = [&](const Operand& o) {
      return o ? address<T>(context, o, task) + i : nullptr;
    };
    const CrossEntropyRow<T> row{
        at(args.x), at(args.x_dot), at(args.cin), at(args.p),
        out + i,    args.classes,   c ? c[r] : 0, static_cast<T>(args.smoothing)};
    switch (args.pass) {
      case PassKind::forward:
        total += row.loss();
        break;
      case PassKind::backward:
        row.backward(bar);
        break;
      case PassKind::forward_jvp:  // nobody asks for it
        break;
      case PassKind::backward_jvp:
        row.backward_jvp(bar);
        break;
    }
  }
  if (args.pass == PassKind::forward) *out = total * weight;
}

template <class T>
void run_kernel(const CrossEntropyArgs& args, const Context& context) {
  const Share share(context, context.tasks);
  for (int64_t task = share.begin; task < share.end; ++task) run_task<T>(args, context, task);
}

}  // namespace fastmaml::FASTMAML_ISA
