// group_norm on the CPU: a thread takes (task, row, group) sets, then channels of the parameters.
//
// A set's sums run over its pixels in vectors of channels, whose lanes are added at the end. With
// one channel to a group there is nothing to add: each lane is a set of its own, and a vector of
// sets is treated at once. Sums over rows are split by channel and read no result of the same
// instruction, so the threads need not wait between the two.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "cpu/math.hpp"
#include "ops/group_norm/group_norm.hpp"

namespace fastmaml::FASTMAML_ISA {

// One task's operands, see GroupNormArgs; null where absent.
template <class T>
struct GroupNormTask {
  const GroupNormArgs& args;
  int64_t R, P, C, G;
  bool alone;  // one channel to a group
  T per_set;   // 1 / N
  const T *x, *weight, *bias, *y_bar, *x_dot, *weight_dot, *bias_dot, *y_bar_dot, *cin;
  const T *weight_cin, *bias_cin;
  T *stats, *m, *n, *out, *weight_out, *bias_out;
  T weight_scale, bias_scale;

  GroupNormTask(const GroupNormArgs& a, const Context& context, int64_t task)
      : args(a), R(a.rows), P(a.pixels), C(a.channels), G(a.groups), alone(a.groups == a.channels) {
    per_set = 1 / static_cast<T>(P * (C / G));
    const auto at = [&](const Operand& o) { return address_or_null<T>(context, o, task); };
    x = at(a.x), weight = at(a.weight), bias = at(a.bias), y_bar = at(a.y_bar);
    x_dot = at(a.x_dot), y_bar_dot = at(a.y_bar_dot), cin = at(a.cin);
    weight_dot = at(a.weight_dot), bias_dot = at(a.bias_dot);
    weight_cin = at(a.weight_cin), bias_cin = at(a.bias_cin);
    stats = at(a.stats), m = at(a.m), n = at(a.n);
    out = at(a.out), weight_out = at(a.weight_out), bias_out = at(a.bias_out);
    const T* scalars = static_cast<const T*>(context.scalars);
    weight_scale = scalars[a.weight_scale], bias_scale = scalars[a.bias_scale];
  }

  // One set, or a vector of them: its row and channels, and where its statistics stand.
  struct Set {
    int64_t row, begin, end, at;
    Lanes<T> sets;  // of the statistics: 1 unless alone
  };
  // body(i, j, lanes): place in [R, P, C], channel.
  template <class Body>
  FASTMAML_INLINE void each(const Set& s, Body&& body) const {
    for (int64_t p = 0; p < P; ++p)
      for_lanes<T>(s.begin, s.end,
                   [&](int64_t j, Lanes<T> l) { body((s.row * P + p) * C + j, j, l); });
  }
  FASTMAML_INLINE Vec<T> mean_of(Vec<T> total) const {
    return (alone ? total : splat<T>(sum<T>(total))) * per_set;
  }
  // A statistic of the set, 0 where nobody needed it.
  FASTMAML_INLINE Vec<T> get(const T* p, const Set& s) const {
    if (!p) return splat<T>(0);
    return alone ? s.sets.load(p + s.at) : splat<T>(p[s.at]);
  }
  FASTMAML_INLINE void put(T* p, const Set& s, Vec<T> first, Vec<T> second) const {
    s.sets.store(p + s.at, first), s.sets.store(p + R * G + s.at, second);
  }

  void forward(const Set& s) const {
    Vec<T> total = splat<T>(0), squares = splat<T>(0);
    each(s, [&](int64_t i, int64_t, Lanes<T> l) { total += l.load(x + i); });
    const Vec<T> mean = mean_of(total);
    each(s, [&](int64_t i, int64_t, Lanes<T> l) {
      const Vec<T> d = l.only(l.load(x + i) - mean, T(0));
      squares += d * d;
    });
    const Vec<T> rstd = T(1) / sqrt(mean_of(squares) + static_cast<T>(args.eps));
    put(stats, s, mean, rstd);
    each(s, [&](int64_t i, int64_t j, Lanes<T> l) {
      const Vec<T> h = (l.load(x + i) - mean) * rstd;
      l.store(out + i, h * l.load_or(weight, j, T(1)) + l.load_or(bias, j, T(0)));
    });
  }

  void backward(const Set& s) const {
    const Vec<T> mean = get(stats, s), rstd = get(stats + R * G, s);
    Vec<T> bars = splat<T>(0), products = splat<T>(0);
    each(s, [&](int64_t i, int64_t j, Lanes<T> l) {
      const Vec<T> d = l.load(y_bar + i) * l.load_or(weight, j, T(1));
      bars += d;  // lanes past the end load 0
      products += l.only(d * (l.load(x + i) - mean), T(0));
    });
    const Vec<T> m1 = mean_of(bars), m2 = mean_of(products) * rstd;
    put(m, s, m1, m2);
    each(s, [&](int64_t i, int64_t j, Lanes<T> l) {
      const Vec<T> d = l.load(y_bar + i) * l.load_or(weight, j, T(1));
      const Vec<T> h = (l.load(x + i) - mean) * rstd;
      l.store(out + i, rstd * (d - m1 - h * m2) + l.load_or(cin, i, T(0)));
    });
  }

  void forward_jvp(const Set& s) const {
    const Vec<T> mean = get(stats, s), rstd = get(stats + R * G, s);
    Vec<T> n1 = splat<T>(0), n2 = splat<T>(0);
    if (n) {
      each(s, [&](int64_t i, int64_t, Lanes<T> l) {
        const Vec<T> d = l.load(x_dot + i);
        n1 += d;
        n2 += l.only(d * (l.load(x + i) - mean), T(0));
      });
      n1 = mean_of(n1), n2 = mean_of(n2) * rstd;
      put(n, s, n1, n2);
    }
    each(s, [&](int64_t i, int64_t j, Lanes<T> l) {
      const Vec<T> h = (l.load(x + i) - mean) * rstd;
      const Vec<T> h_dot = rstd * (l.load_or(x_dot, i, T(0)) - n1 - h * n2);
      l.store(out + i, l.load_or(weight, j, T(1)) * h_dot + l.load_or(weight_dot, j, T(0)) * h +
                           l.load_or(bias_dot, j, T(0)));
    });
  }

  void backward_jvp(const Set& s) const {
    const Vec<T> mean = get(stats, s), rstd = get(stats + R * G, s);
    const T *m_h = m ? m + R * G : nullptr, *n_h = n ? n + R * G : nullptr;
    const Vec<T> m1 = get(m, s), m2 = get(m_h, s), n1 = get(n, s), n2 = get(n_h, s);
    const auto h_at = [&](int64_t i, Lanes<T> l) { return (l.load(x + i) - mean) * rstd; };
    const auto h_dot_at = [&](int64_t i, Vec<T> h, Lanes<T> l) {
      return rstd * (l.load_or(x_dot, i, T(0)) - n1 - h * n2);
    };
    const auto d_dot_at = [&](int64_t i, int64_t j, Lanes<T> l) {
      return l.load(y_bar_dot + i) * l.load_or(weight, j, T(1)) +
             l.load(y_bar + i) * l.load_or(weight_dot, j, T(0));
    };
    Vec<T> bars = splat<T>(0), products = splat<T>(0);
    each(s, [&](int64_t i, int64_t j, Lanes<T> l) {
      const Vec<T> h = h_at(i, l), d_dot = d_dot_at(i, j, l);
      const Vec<T> d = l.load(y_bar + i) * l.load_or(weight, j, T(1));
      bars += l.only(d_dot, T(0));
      products += l.only(d_dot * h + d * h_dot_at(i, h, l), T(0));
    });
    const Vec<T> m1_dot = mean_of(bars), m2_dot = mean_of(products);
    const Vec<T> rstd_dot = -rstd * rstd * n2;
    each(s, [&](int64_t i, int64_t j, Lanes<T> l) {
      const Vec<T> h = h_at(i, l), d = l.load(y_bar + i) * l.load_or(weight, j, T(1));
      const Vec<T> centred_dot = d_dot_at(i, j, l) - m1_dot - h_dot_at(i, h, l) * m2 - h * m2_dot;
      l.store(out + i, rstd_dot * (d - m1 - h * m2) + rstd * centred_dot + l.load_or(cin, i, T(0)));
    });
  }

  // The statistic of each channel's group in one row.
  FASTMAML_INLINE Vec<T> spread(const T* p, int64_t r, int64_t j, Lanes<T> l) const {
    if (!p) return splat<T>(0);
    if (alone) return l.load(p + r * G + j);
    if (G == 1) return splat<T>(p[r]);
    Vec<T> v{};
    for (int i = 0; i < l.n; ++i) v[i] = p[r * G + (j + i) / (C / G)];
    return v;
  }

  // The cotangents of weight and bias, or their tangents: sums over rows and pixels.
  void params(int64_t j, Lanes<T> l) const {
    const bool tangent = args.pass == PassKind::backward_jvp;
    Vec<T> bars = splat<T>(0), products = splat<T>(0);
    for (int64_t r = 0; r < R; ++r) {
      const Vec<T> mean = spread(stats, r, j, l), rstd = spread(stats + R * G, r, j, l);
      const Vec<T> n1 = spread(n, r, j, l), n2 = spread(n ? n + R * G : nullptr, r, j, l);
      for (int64_t i = r * P * C + j; i < (r + 1) * P * C; i += C) {
        const Vec<T> h = (l.load(x + i) - mean) * rstd, bar = l.load(y_bar + i);
        if (tangent) {
          const Vec<T> bar_dot = l.load(y_bar_dot + i);
          const Vec<T> h_dot = rstd * (l.load_or(x_dot, i, T(0)) - n1 - h * n2);
          bars += bar_dot, products += bar_dot * h + bar * h_dot;
        } else {
          bars += bar, products += bar * h;
        }
      }
    }
    if (weight_out)
      l.store(weight_out + j, products * weight_scale + l.load_or(weight_cin, j, T(0)));
    if (bias_out) l.store(bias_out + j, bars * bias_scale + l.load_or(bias_cin, j, T(0)));
  }

  void normalise(const Set& s) const {
    switch (args.pass) {
      case PassKind::forward:
        return forward(s);
      case PassKind::backward:
        return backward(s);
      case PassKind::forward_jvp:
        return forward_jvp(s);
      case PassKind::backward_jvp:
        return backward_jvp(s);
    }
  }
};

template <class T>
void run_kernel(const GroupNormArgs& args, const Context& context) {
  using Set = typename GroupNormTask<T>::Set;
  const int64_t R = args.rows, C = args.channels, G = args.groups, wide = C / G;
  const bool alone = G == C;
  const int64_t units = alone ? (C + kWidth<T> - 1) / kWidth<T> : G;
  const Share sets(context, args.out ? context.tasks * R * units : 0);
  for (int64_t i = sets.begin; i < sets.end; ++i) {
    const int64_t task = i / (R * units), row = i / units % R, unit = i % units;
    const int64_t begin = alone ? unit * kWidth<T> : unit * wide;
    const int64_t end = begin + (alone ? (C - begin < kWidth<T> ? C - begin : kWidth<T>) : wide);
    const GroupNormTask<T> t(args, context, task);
    t.normalise(Set{row, begin, end, row * G + (alone ? begin : unit),
                    Lanes<T>{alone ? static_cast<int>(end - begin) : 1}});
  }
  if (!args.weight_out && !args.bias_out) return;
  const int64_t blocks = (C + kWidth<T> - 1) / kWidth<T>;
  const Share share(context, context.tasks * blocks);
  for (int64_t i = share.begin; i < share.end; ++i) {
    const int64_t j = i % blocks * kWidth<T>, left = C - j;
    const GroupNormTask<T> t(args, context, i / blocks);
    t.params(j, Lanes<T>{left < kWidth<T> ? static_cast<int>(left) : kWidth<T>});
  }
}

}  // namespace fastmaml::FASTMAML_ISA
