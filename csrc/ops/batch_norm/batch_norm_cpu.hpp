// batch_norm on the CPU: a vector of features at a time, all rows of it before the next.
//
// A thread takes a range of (task, feature) pairs. Nothing is summed over features, so a feature's
// numbers do not depend on the range. Rows are few, so a column of vectors stays in the L1 cache
// between the two sweeps over its rows.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "cpu/math.hpp"
#include "ops/batch_norm/batch_norm.hpp"

namespace fastmaml::FASTMAML_ISA {

// One task's operands, see BatchNormArgs; null where absent.
template <class T>
struct BatchNormTask {
  const BatchNormArgs& args;
  int64_t R, F;
  T per_row;  // 1 / R
  const T *x, *weight, *bias, *running_mean, *running_var;
  const T *y_bar, *x_dot, *weight_dot, *bias_dot, *y_bar_dot, *cin, *weight_cin, *bias_cin;
  T *stats, *m, *n, *out, *weight_out, *bias_out;
  T weight_scale, bias_scale;

  BatchNormTask(const BatchNormArgs& a, const Context& context, int64_t task)
      : args(a), R(a.rows), F(a.features), per_row(1 / static_cast<T>(a.rows)) {
    const auto at = [&](const Operand& o) { return address_or_null<T>(context, o, task); };
    x = at(a.x), weight = at(a.weight), bias = at(a.bias);
    running_mean = at(a.running_mean), running_var = at(a.running_var);
    y_bar = at(a.y_bar), x_dot = at(a.x_dot), y_bar_dot = at(a.y_bar_dot), cin = at(a.cin);
    weight_dot = at(a.weight_dot), bias_dot = at(a.bias_dot);
    weight_cin = at(a.weight_cin), bias_cin = at(a.bias_cin);
    stats = at(a.stats), m = at(a.m), n = at(a.n);
    out = at(a.out), weight_out = at(a.weight_out), bias_out = at(a.bias_out);
    const T* scalars = static_cast<const T*>(context.scalars);
    weight_scale = scalars[a.weight_scale], bias_scale = scalars[a.bias_scale];
  }

  // Mean and summed squared deviations of the rows.
  struct Moments {
    Vec<T> mean, squares;
  };

  // Block by block of rows that stay in cache between the two sums; blocks are then merged as in
  // Chan, Golub, LeVeque 1979, so that memory is read once and nothing cancels.
  Moments moments(int64_t j, Lanes<T> l) const {
    constexpr int64_t kRows = 128;
    Moments all{splat<T>(0), splat<T>(0)};
    for (int64_t begin = 0; begin < R; begin += kRows) {
      const int64_t end = begin + kRows < R ? begin + kRows : R;
      Vec<T> total = splat<T>(0), squares = splat<T>(0);
      for (int64_t r = begin; r < end; ++r) total += l.load(x + r * F + j);
      const Vec<T> mean = total * splat<T>(1 / static_cast<T>(end - begin));
      for (int64_t r = begin; r < end; ++r) {
        const Vec<T> d = l.load(x + r * F + j) - mean;
        squares += d * d;
      }
      if (begin == 0) {
        all = {mean, squares};
        continue;
      }
      const Vec<T> apart = mean - all.mean;
      const T share = static_cast<T>(end - begin) / static_cast<T>(end);
      all.mean += apart * splat<T>(share);
      all.squares += squares + apart * apart * splat<T>(share * static_cast<T>(begin));
    }
    return all;
  }

  void forward(int64_t j, Lanes<T> l) const {
    Vec<T> mean, var;
    if (args.batch_stats) {
      const Moments all = moments(j, l);
      mean = all.mean, var = all.squares * per_row;
    } else {
      mean = l.load(running_mean + j), var = l.load(running_var + j);
    }
    const Vec<T> rstd = T(1) / sqrt(var + static_cast<T>(args.eps));
    l.store(stats + j, mean), l.store(stats + F + j, rstd);
    const Vec<T> scale = l.load_or(weight, j, T(1)) * rstd, b = l.load_or(bias, j, T(0));
    for (int64_t r = 0; r < R; ++r)
      l.store(out + r * F + j, (l.load(x + r * F + j) - mean) * scale + b);
  }

  // Writes the cotangents, or their tangents, of weight and bias.
  FASTMAML_INLINE void write_params(int64_t j, Lanes<T> l, Vec<T> weight_sum,
                                    Vec<T> bias_sum) const {
    if (weight_out)
      l.store(weight_out + j, weight_sum * weight_scale + l.load_or(weight_cin, j, T(0)));
    if (bias_out) l.store(bias_out + j, bias_sum * bias_scale + l.load_or(bias_cin, j, T(0)));
  }

  void backward(int64_t j, Lanes<T> l) const {
    const Vec<T> mean = l.load(stats + j), rstd = l.load(stats + F + j);
    Vec<T> bars = splat<T>(0), products = splat<T>(0);
    for (int64_t r = 0; r < R; ++r) {
      const Vec<T> d = l.load(y_bar + r * F + j);
      bars += d;
      products += d * (l.load(x + r * F + j) - mean);
    }
    products *= rstd;
    write_params(j, l, products, bars);
    Vec<T> m1 = splat<T>(0), m2 = splat<T>(0);
    if (args.batch_stats) {
      m1 = bars * per_row, m2 = products * per_row;
      l.store(m + j, m1), l.store(m + F + j, m2);
    }
    if (!out) return;
    const Vec<T> scale = l.load_or(weight, j, T(1)) * rstd;
    for (int64_t r = 0; r < R; ++r) {
      const Vec<T> h = (l.load(x + r * F + j) - mean) * rstd;
      l.store(out + r * F + j,
              scale * (l.load(y_bar + r * F + j) - m1 - h * m2) + l.load_or(cin, r * F + j, T(0)));
    }
  }

  void forward_jvp(int64_t j, Lanes<T> l) const {
    const Vec<T> mean = l.load(stats + j), rstd = l.load(stats + F + j);
    Vec<T> n1 = splat<T>(0), n2 = splat<T>(0);
    if (n) {
      for (int64_t r = 0; r < R; ++r) {
        const Vec<T> d = l.load(x_dot + r * F + j);
        n1 += d;
        n2 += d * (l.load(x + r * F + j) - mean);
      }
      n1 = n1 * per_row, n2 = n2 * rstd * per_row;
      l.store(n + j, n1), l.store(n + F + j, n2);
    }
    const Vec<T> w = l.load_or(weight, j, T(1)), w_dot = l.load_or(weight_dot, j, T(0));
    const Vec<T> b_dot = l.load_or(bias_dot, j, T(0));
    for (int64_t r = 0; r < R; ++r) {
      const Vec<T> h = (l.load(x + r * F + j) - mean) * rstd;
      const Vec<T> h_dot = rstd * (l.load_or(x_dot, r * F + j, T(0)) - n1 - h * n2);
      l.store(out + r * F + j, w * h_dot + w_dot * h + b_dot);
    }
  }

  void backward_jvp(int64_t j, Lanes<T> l) const {
    const Vec<T> zero = splat<T>(0);
    const Vec<T> mean = l.load(stats + j), rstd = l.load(stats + F + j);
    const Vec<T> n1 = l.load_or(n, j, T(0)), n2 = n ? l.load(n + F + j) : zero;
    const Vec<T> m1 = l.load_or(m, j, T(0)), m2 = m ? l.load(m + F + j) : zero;
    const auto h = [&](int64_t i) { return (l.load(x + i) - mean) * rstd; };
    const auto h_dot = [&](int64_t i, Vec<T> h) {
      return rstd * (l.load_or(x_dot, i, T(0)) - n1 - h * n2);
    };
    Vec<T> bars = zero, products = zero;
    for (int64_t i = j; i < R * F; i += F) {
      const Vec<T> d_dot = l.load(y_bar_dot + i), h_i = h(i);
      bars += d_dot;
      products += d_dot * h_i + l.load(y_bar + i) * h_dot(i, h_i);
    }
    write_params(j, l, products, bars);
    if (!out) return;
    const Vec<T> m1_dot = args.batch_stats ? bars * per_row : zero;
    const Vec<T> m2_dot = args.batch_stats ? products * per_row : zero;
    const Vec<T> w = l.load_or(weight, j, T(1)), scale = w * rstd;
    const Vec<T> scale_dot = l.load_or(weight_dot, j, T(0)) * rstd - scale * rstd * n2;
    for (int64_t i = j; i < R * F; i += F) {
      const Vec<T> h_i = h(i);
      const Vec<T> centred = l.load(y_bar + i) - m1 - h_i * m2;
      const Vec<T> centred_dot = l.load(y_bar_dot + i) - m1_dot - h_dot(i, h_i) * m2 - h_i * m2_dot;
      l.store(out + i, scale_dot * centred + scale * centred_dot + l.load_or(cin, i, T(0)));
    }
  }
};

template <class T>
void run_kernel(const BatchNormArgs& args, const Context& context) {
  const int64_t F = args.features;
  const Share share(context, context.tasks * F, kWidth<T>);
  for (int64_t i = share.begin; i < share.end;) {
    const int64_t task = i / F, left = share.end - task * F;
    const int64_t end = left < F ? left : F;
    const BatchNormTask<T> t(args, context, task);
    for_lanes<T>(i - task * F, end, [&](int64_t j, Lanes<T> l) {
      switch (args.pass) {
        case PassKind::forward:
          return t.forward(j, l);
        case PassKind::backward:
          return t.backward(j, l);
        case PassKind::forward_jvp:
          return t.forward_jvp(j, l);
        case PassKind::backward_jvp:
          return t.backward_jvp(j, l);
      }
    });
    i = task * F + end;
  }
}

}  // namespace fastmaml::FASTMAML_ISA
