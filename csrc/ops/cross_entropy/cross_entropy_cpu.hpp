// cross_entropy on the CPU. One thread takes a task from end to end, row by row.
#pragma once

#include "cpu/context.hpp"
#include "cpu/math.hpp"
#include "cpu/sums.hpp"
#include "ops/cross_entropy/cross_entropy.hpp"

namespace fastmaml::FASTMAML_ISA {

// One row of a task: C logits, tangents, softmax numbers; the target distribution t. kLong: classes
// are so many that sums over them are made of chains.
template <class T, bool kLong>
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
    const T exps = sum_lanes<T, kLong>(
        classes, [&](int64_t i, Lanes<T> l) { return l.only(exp<T>(l.load(x + i) - top), T(0)); });
    // Checked at the door, but the caller's memory may have changed since.
    const T chosen = target >= 0 && target < classes ? x[target] : T(__builtin_nan(""));
    const T loss = log(exps) - (T(1) - smoothing) * (chosen - top);
    if (smoothing == 0) return loss;
    const T shifted = sum_lanes<T, kLong>(
        classes, [&](int64_t i, Lanes<T> l) { return l.only(l.load(x + i) - top, T(0)); });
    return loss - smoothing / static_cast<T>(classes) * shifted;
  }

  void backward(T bar) const {
    const T top = max();
    const T total = sum_lanes<T, kLong>(classes, [&](int64_t i, Lanes<T> l) {
      const Vec<T> e = exp<T>(l.load(x + i) - top);
      l.store(p + i, e);
      return l.only(e, T(0));
    });
    for_lanes<T>(0, classes, [&](int64_t i, Lanes<T> l) {
      const Vec<T> softmax = l.load(p + i) / total;
      l.store(p + i, softmax);
      l.store(out + i, (softmax - t(i)) * bar + l.load_or(cin, i, T(0)));
    });
  }

  void backward_jvp(T bar) const {
    const T mean = sum_lanes<T, kLong>(
        classes, [&](int64_t i, Lanes<T> l) { return l.load(p + i) * l.load(x_dot + i); });
    for_lanes<T>(0, classes, [&](int64_t i, Lanes<T> l) {
      l.store(out + i, l.load(p + i) * (l.load(x_dot + i) - mean) * bar + l.load_or(cin, i, T(0)));
    });
  }
};

template <class T, bool kLong>
void run_task(const CrossEntropyArgs& args, const Context& context, int64_t task) {
  const volatile int64_t* c = address_or_null<int64_t>(context, args.c, task);  // read once
  const T weight = static_cast<T>(args.weight);
  const T bar = static_cast<const T*>(context.scalars)[args.seed] * weight;
  const auto at = [&](const Operand& o) { return address_or_null<T>(context, o, task); };
  const T *x = at(args.x), *x_dot = at(args.x_dot), *cin = at(args.cin);
  T *p = at(args.p), *out = at(args.out);
  const auto row = [&](int64_t r) {
    const int64_t i = r * args.classes;
    return CrossEntropyRow<T, kLong>{x ? x + i : nullptr,
                                     x_dot ? x_dot + i : nullptr,
                                     cin ? cin + i : nullptr,
                                     p ? p + i : nullptr,
                                     out + i,
                                     args.classes,
                                     c ? c[r] : 0,
                                     static_cast<T>(args.smoothing)};
  };
  const auto sum_rows = [&](auto&& term) {
    return sum_in_chains<T, true>(args.rows, 1, [&](int64_t begin, int64_t end) {
      T chain = 0;
      for (int64_t r = begin; r < end; ++r) chain += term(row(r));
      return splat<T>(chain);
    })[0];
  };
  switch (args.pass) {
    case PassKind::forward:
      *out = sum_rows([](const auto& own) { return own.loss(); }) * weight;
      break;
    case PassKind::backward:
      for (int64_t r = 0; r < args.rows; ++r) row(r).backward(bar);
      break;
    case PassKind::forward_jvp:  // nobody asks for it
      break;
    case PassKind::backward_jvp:
      for (int64_t r = 0; r < args.rows; ++r) row(r).backward_jvp(bar);
      break;
  }
}

template <class T, bool kLong>
void run_tasks(const CrossEntropyArgs& args, const Context& context) {
  const Share share(context, context.tasks);
  for (int64_t task = share.begin; task < share.end; ++task)
    run_task<T, kLong>(args, context, task);
}

template <class T>
void run_kernel(const CrossEntropyArgs& args, const Context& context) {
  if (args.classes > kChain * kWidth<T>)
    run_tasks<T, true>(args, context);
  else
    run_tasks<T, false>(args, context);
}

}  // namespace fastmaml::FASTMAML_ISA
