// group_norm on the CPU: a thread takes (task, row, group) sets, then channels of the parameters.
//
// A set's sums run over its pixels in vectors of channels, in chains (see ops/long_sum.hpp); their
// lanes are added at the end. With one channel to a group there is nothing to add: each lane is a
// set of its own, and a vector of sets is treated at once. Sums over rows are split by channel and
// read no result of the same instruction, so the threads need not wait between the two.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "cpu/math.hpp"
#include "ops/batch_norm/norm_formulas.hpp"
#include "ops/group_norm/group_norm.hpp"
#include "ops/long_sum.hpp"

namespace fastmaml::FASTMAML_ISA {

// One task's operands, see GroupNormArgs; null where absent. kLong: sums have more than kChain
// terms.
template <class T, bool kLong>
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

  // Some pixels of a row, and channels of them.
  struct Part {
    int64_t row, first, last, begin, end;
  };
  // One set, or a vector of them, and where its statistics stand.
  struct Set {
    Part all;
    int64_t at;
    Lanes<T> sets;  // of the statistics: 1 unless alone
  };
  // body(i, j, lanes): place in [R, P, C], channel.
  template <class Body>
  FASTMAML_INLINE void each(const Part& s, Body&& body) const {
    int64_t at = (s.row * P + s.first) * C;
    for (int64_t left = s.last - s.first; left > 0; --left, at += C)
      for_lanes<T>(s.begin, s.end, [&](int64_t j, Lanes<T> l) { body(at + j, j, l); });
  }
  template <class Body>
  FASTMAML_INLINE void each(const Set& s, Body&& body) const {
    each(s.all, body);
  }
  // Two sums.
  struct LongPair {
    LongSum<T> one, two;
    FASTMAML_INLINE void add(const NormPair<T>& part) { one.add(part.one), two.add(part.two); }
    FASTMAML_INLINE NormPair<T> value() const { return {one.value(), two.value()}; }
  };
  // The sum over s, where chain(part) is the plain one: a Long is LongSum<T> or LongPair.
  template <class Long, class Chain>
  FASTMAML_INLINE auto sum_chains(const Part& s, Chain&& chain) const {
    if constexpr (!kLong) return chain(s);
    const int64_t wide = s.end - s.begin, vectors = (wide + kWidth<T> - 1) / kWidth<T>;
    const int64_t down = vectors < kShortChain ? kShortChain / vectors : 1;
    Long all;
    each_chain(P, down, [&](int64_t first, int64_t last) {
      each_chain(wide, kShortChain * kWidth<T>, [&](int64_t begin, int64_t end) {
        all.add(chain(Part{s.row, first, last, s.begin + begin, s.begin + end}));
      });
    });
    return all.value();
  }
  FASTMAML_INLINE Vec<T> mean_of(Vec<T> total) const {
    return (alone ? total : splat<T>(sum<T>(total))) * per_set;
  }
  // The mean of term(i, j, lanes) over the set; those of two, which add(i, j, lanes, to) adds.
  template <class Term>
  FASTMAML_INLINE Vec<T> mean(const Set& s, Term&& term) const {
    return mean_of(sum_chains<LongSum<T>>(s.all, [&](const Part& part) {
      Vec<T> chain = splat<T>(0);
      each(part, [&](int64_t i, int64_t j, Lanes<T> l) { chain += term(i, j, l); });
      return chain;
    }));
  }
  template <class Add>
  FASTMAML_INLINE NormPair<T> means(const Set& s, Add&& add) const {
    const NormPair<T> sums = sum_chains<LongPair>(s.all, [&](const Part& part) {
      Vec<T> one = splat<T>(0), two = splat<T>(0);
      each(part, [&](int64_t i, int64_t j, Lanes<T> l) { add(i, j, l, one, two); });
      return NormPair<T>{one, two};
    });
    return {mean_of(sums.one), mean_of(sums.two)};
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
    const Vec<T> mean =
        this->mean(s, [&](int64_t i, int64_t, Lanes<T> l) { return l.load(x + i); });
    const Vec<T> var = this->mean(s, [&](int64_t i, int64_t, Lanes<T> l) {
      const Vec<T> d = l.only(l.load(x + i) - mean, T(0));
      return d * d;
    });
    const Vec<T> rstd = T(1) / sqrt(var + static_cast<T>(args.eps));
    put(stats, s, mean, rstd);
    each(s, [&](int64_t i, int64_t j, Lanes<T> l) {
      const Vec<T> h = (l.load(x + i) - mean) * rstd;
      l.store(out + i, h * l.load_or(weight, j, T(1)) + l.load_or(bias, j, T(0)));
    });
  }

  void backward(const Set& s) const {
    const Vec<T> mean = get(stats, s), rstd = get(stats + R * G, s);
    const NormPair<T> sums =
        means(s, [&](int64_t i, int64_t j, Lanes<T> l, Vec<T>& one, Vec<T>& two) {
          const Vec<T> d = l.load(y_bar + i) * l.load_or(weight, j, T(1));
          one += d;  // lanes past the end load 0
          two += l.only(d * (l.load(x + i) - mean), T(0));
        });
    const Vec<T> m1 = sums.one, m2 = sums.two * rstd;
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
      const NormPair<T> sums =
          means(s, [&](int64_t i, int64_t, Lanes<T> l, Vec<T>& one, Vec<T>& two) {
            const Vec<T> d = l.load(x_dot + i);
            one += d;
            two += l.only(d * (l.load(x + i) - mean), T(0));
          });
      n1 = sums.one, n2 = sums.two * rstd;
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
    const NormPair<T> sums =
        means(s, [&](int64_t i, int64_t j, Lanes<T> l, Vec<T>& one, Vec<T>& two) {
          const Vec<T> h = h_at(i, l), d_dot = d_dot_at(i, j, l);
          const Vec<T> d = l.load(y_bar + i) * l.load_or(weight, j, T(1));
          one += l.only(d_dot, T(0));
          two += l.only(d_dot * h + d * h_dot_at(i, h, l), T(0));
        });
    const Vec<T> m1_dot = sums.one, m2_dot = sums.two;
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
    LongPair all;
    NormPair<T> sums{splat<T>(0), splat<T>(0)};
    int64_t room = kLong ? kShortChain : R * P;
    for (int64_t r = 0; r < R; ++r) {
      const Vec<T> mean = spread(stats, r, j, l), rstd = spread(stats + R * G, r, j, l);
      const Vec<T> n1 = spread(n, r, j, l), n2 = spread(n ? n + R * G : nullptr, r, j, l);
      for (int64_t i = r * P * C + j, left = P; left > 0;) {
        if (kLong && room == 0)
          all.add(sums), sums = {splat<T>(0), splat<T>(0)}, room = kShortChain;
        const int64_t count = kLong && room < left ? room : left;
        left -= count, room -= count;
        for (const int64_t end = i + count * C; i < end; i += C) {
          const Vec<T> h = (l.load(x + i) - mean) * rstd, bar = l.load(y_bar + i);
          if (tangent) {
            const Vec<T> bar_dot = l.load(y_bar_dot + i);
            const Vec<T> h_dot = rstd * (l.load_or(x_dot, i, T(0)) - n1 - h * n2);
            sums.one += bar_dot, sums.two += bar_dot * h + bar * h_dot;
          } else {
            sums.one += bar, sums.two += bar * h;
          }
        }
      }
    }
    if constexpr (kLong) all.add(sums), sums = all.value();
    if (weight_out)
      l.store(weight_out + j, sums.two * weight_scale + l.load_or(weight_cin, j, T(0)));
    if (bias_out) l.store(bias_out + j, sums.one * bias_scale + l.load_or(bias_cin, j, T(0)));
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

template <class T, bool kLong>
void run_sets(const GroupNormArgs& args, const Context& context) {
  using Task = GroupNormTask<T, kLong>;
  const int64_t R = args.rows, C = args.channels, G = args.groups, wide = C / G;
  const bool alone = G == C;
  const int64_t units = alone ? (C + kWidth<T> - 1) / kWidth<T> : G;
  const Share sets(context, context.tasks * R * units);
  for (int64_t i = sets.begin; i < sets.end; ++i) {
    const int64_t task = i / (R * units), row = i / units % R, unit = i % units;
    const int64_t begin = alone ? unit * kWidth<T> : unit * wide;
    const int64_t end = begin + (alone ? (C - begin < kWidth<T> ? C - begin : kWidth<T>) : wide);
    const Task t(args, context, task);
    t.normalise(typename Task::Set{{row, 0, t.P, begin, end},
                                   row * G + (alone ? begin : unit),
                                   Lanes<T>{alone ? static_cast<int>(end - begin) : 1}});
  }
}

template <class T, bool kLong>
void run_params(const GroupNormArgs& args, const Context& context) {
  const int64_t C = args.channels, blocks = (C + kWidth<T> - 1) / kWidth<T>;
  const Share share(context, context.tasks * blocks);
  for (int64_t i = share.begin; i < share.end; ++i) {
    const int64_t j = i % blocks * kWidth<T>, left = C - j;
    const GroupNormTask<T, kLong> t(args, context, i / blocks);
    t.params(j, Lanes<T>{left < kWidth<T> ? static_cast<int>(left) : kWidth<T>});
  }
}

template <class T>
void run_kernel(const GroupNormArgs& args, const Context& context) {
  const int64_t wide = args.channels / args.groups, vectors = (wide + kWidth<T> - 1) / kWidth<T>;
  if (args.out && args.pixels * vectors > kChain)
    run_sets<T, true>(args, context);
  else if (args.out)
    run_sets<T, false>(args, context);
  if (!args.weight_out && !args.bias_out) return;
  if (args.rows * args.pixels > kChain)
    run_params<T, true>(args, context);
  else
    run_params<T, false>(args, context);
}

}  // namespace fastmaml::FASTMAML_ISA
