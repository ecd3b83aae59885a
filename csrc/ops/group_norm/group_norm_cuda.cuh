// group_norm on the device: a (row, group) set is normalised by a warp, or by a block where it is
// large; where groups are a few channels wide a block takes sets side by side, so that neighbouring
// threads read neighbouring numbers.
//
// The parameters' sums run down the columns of the matrix of all pixels by channels. They take what
// they need from statistics that earlier instructions left, so that no block waits for another.
#pragma once

#include "ops/batch_norm/norm_pair_cuda.cuh"
#include "ops/group_norm/group_norm.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<GroupNormArgs> = {128, 168};

// How an instruction is cut into units of a block's work, by shapes alone: first the chunks of
// channels whose parameters are summed, which take longest, then the sets.
struct GroupNormUnits {
  int64_t wide, set, sets;  // channels of a group, numbers of a set, how many sets
  bool by_warp;
  int columns, side_by_side;  // sets of a block; the latter counts its warps' as well
  int64_t chunks, units;

  constexpr explicit GroupNormUnits(const GroupNormArgs& args)
      : wide(args.channels / args.groups),
        set(args.pixels * wide),
        sets(args.rows * args.groups),
        by_warp(false),
        columns(1),
        side_by_side(1),
        chunks(0),
        units(0) {
    constexpr int64_t kNarrow = 8, kWarpSet = 2048;
    if (wide < kNarrow)
      columns = Columns::choose(set, sets);
    else
      by_warp = set <= kWarpSet;
    if (args.weight_out || args.bias_out)
      chunks = Columns::chunks(args.rows * args.pixels, args.channels);
    side_by_side = by_warp ? kWarps : columns;
    units = chunks + (args.out ? (sets + side_by_side - 1) / side_by_side : 0);
  }
};

// One set as its team sees it; addresses are of its row's first number.
template <class T>
struct GroupNormSet {
  using Pair = NormPair<T>;

  const GroupNormArgs& args;
  const Block& block;
  int64_t task, at_set, wide, count, start, channel;
  const Columns& team;
  const NormMemory<T>& memory;
  NormSet<T> norm;
  T per_set;  // 1 / N

  // A team without a set has no numbers.
  FASTMAML_DEVICE GroupNormSet(const GroupNormArgs& a, const GroupNormUnits& u, const Block& b,
                               int64_t t, int64_t s, const Columns& m, const NormMemory<T>& shared)
      : args(a), block(b), task(t), at_set(s), wide(u.wide), team(m), memory(shared) {
    const int64_t row = quotient(s, a.groups);
    channel = (s - row * a.groups) * wide, start = row * a.pixels * a.channels;
    count = s < u.sets ? u.set : 0, per_set = 1 / static_cast<T>(u.set);
  }

  FASTMAML_DEVICE T* at(const Operand& o) const {
    T* p = address_or_null<T>(block, o, task);
    return p ? p + start : nullptr;
  }
  FASTMAML_DEVICE const T* of_channels(const Operand& o) const {
    return address_or_null<T>(block, o, task);
  }
  FASTMAML_DEVICE Pair pair(const Operand& o) const {
    if (!o || count == 0) return {T(0), T(0)};
    const T* p = address<T>(block, o, task) + at_set;
    return {p[0], p[args.rows * args.groups]};
  }
  FASTMAML_DEVICE void put(const Operand& o, const Pair& value) const {
    if (count == 0 || team.lane > 0) return;
    T* p = address<T>(block, o, task) + at_set;
    p[0] = value.one, p[args.rows * args.groups] = value.two;
  }
  FASTMAML_DEVICE void set_norm(const Pair& stats) { norm = {stats.one, stats.two}; }

  // The set's number e: its place in the row, and its channel.
  struct Place {
    int64_t i, j;
  };
  FASTMAML_DEVICE Place place(int64_t e) const {
    const int64_t pixel = quotient(e, wide), j = channel + e - pixel * wide;
    return {pixel * args.channels + j, j};
  }
  // The mean of term(place) over the set, a number or a pair.
  template <class Term>
  FASTMAML_DEVICE T mean(Term&& term) const {
    return per_set *
           team.sum<T>(count, memory.numbers(), [&](int64_t e) { return term(place(e)); });
  }
  template <class Term>
  FASTMAML_DEVICE Pair means(Term&& term) const {
    return team.sum<Pair>(count, memory.pairs, [&](int64_t e) { return term(place(e)); }) * per_set;
  }
  // out[i] = value(place) for the whole set.
  template <class Value>
  FASTMAML_DEVICE void write(Value&& value) const {
    T* out = at(args.out);
    team.each<T>(
        count, [&](int64_t e) { return value(place(e)); },
        [&](int64_t e, T v) { out[place(e).i] = v; });
  }

  FASTMAML_DEVICE void forward() {
    const T* x = at(args.x);
    Pair stats;
    stats.one = mean([&](Place p) { return x[p.i]; });
    stats.two = mean([&](Place p) {
      const T d = x[p.i] - stats.one;
      return d * d;
    });
    stats.two = T(1) / std::sqrt(stats.two + static_cast<T>(args.eps));
    put(args.stats, stats);
    set_norm(stats);
    const T *weight = of_channels(args.weight), *bias = of_channels(args.bias);
    write([&](Place p) {
      return norm.h(x[p.i]) * load_or(weight, p.j, T(1)) + load_or(bias, p.j, T(0));
    });
  }

  FASTMAML_DEVICE void backward() {
    set_norm(pair(args.stats));
    const T *x = at(args.x), *y_bar = at(args.y_bar), *weight = of_channels(args.weight);
    const auto d_at = [&](Place p) { return y_bar[p.i] * load_or(weight, p.j, T(1)); };
    Pair m = means([&](Place p) {
      const T d = d_at(p);
      return Pair{d, d * (x[p.i] - norm.mean)};
    });
    m.two *= norm.rstd;
    put(args.m, m);
    const T* cin = at(args.cin);
    write([&](Place p) {
      return norm.rstd * norm.centred(d_at(p), norm.h(x[p.i]), m) + load_or(cin, p.i, T(0));
    });
  }

  FASTMAML_DEVICE void forward_jvp() {
    set_norm(pair(args.stats));
    const T *x = at(args.x), *x_dot = at(args.x_dot);
    Pair n{T(0), T(0)};
    if (args.n) {
      n = means([&](Place p) {
        const T d = x_dot[p.i];
        return Pair{d, d * (x[p.i] - norm.mean)};
      });
      n.two *= norm.rstd;
      put(args.n, n);
    }
    const T *weight = of_channels(args.weight), *weight_dot = of_channels(args.weight_dot);
    const T* bias_dot = of_channels(args.bias_dot);
    write([&](Place p) {
      const T h = norm.h(x[p.i]), h_dot = norm.h_dot(load_or(x_dot, p.i, T(0)), h, n);
      return load_or(weight, p.j, T(1)) * h_dot + load_or(weight_dot, p.j, T(0)) * h +
             load_or(bias_dot, p.j, T(0));
    });
  }

  FASTMAML_DEVICE void backward_jvp() {
    set_norm(pair(args.stats));
    const T *x = at(args.x), *x_dot = at(args.x_dot);
    const T *y_bar = at(args.y_bar), *y_bar_dot = at(args.y_bar_dot);
    const T *weight = of_channels(args.weight), *weight_dot = of_channels(args.weight_dot);
    const Pair m = pair(args.m), n = pair(args.n);
    struct Number {
      T h, h_dot, d, d_dot;
    };
    const auto number = [&](Place p) {
      const T h = norm.h(x[p.i]), bar = y_bar[p.i], w = load_or(weight, p.j, T(1));
      return Number{h, norm.h_dot(load_or(x_dot, p.i, T(0)), h, n), bar * w,
                    y_bar_dot[p.i] * w + bar * load_or(weight_dot, p.j, T(0))};
    };
    const Pair m_dot = means([&](Place p) {
      const Number v = number(p);
      return Pair{v.d_dot, v.d_dot * v.h + v.d * v.h_dot};
    });
    const T rstd_dot = -norm.rstd * norm.rstd * n.two;
    const T* cin = at(args.cin);
    write([&](Place p) {
      const Number v = number(p);
      return rstd_dot * norm.centred(v.d, v.h, m) +
             norm.rstd * norm.centred_dot(v.d_dot, v.h, v.h_dot, m, m_dot) +
             load_or(cin, p.i, T(0));
    });
  }

  FASTMAML_DEVICE void run() {
    switch (args.pass) {
      case PassKind::forward:
        return forward();
      case PassKind::backward:
        return backward();
      case PassKind::forward_jvp:
        return forward_jvp();
      case PassKind::backward_jvp:
        return backward_jvp();
    }
  }
};

// The cotangents of weight and bias, or their tangents: sums over rows and pixels.
template <class T>
struct GroupNormParams {
  using Pair = NormPair<T>;

  const GroupNormArgs& args;
  const Block& block;
  int64_t task, sets;
  const T *stats, *n, *x, *y_bar, *x_dot, *y_bar_dot;

  FASTMAML_DEVICE GroupNormParams(const GroupNormArgs& a, const Block& b, int64_t t)
      : args(a), block(b), task(t), sets(a.rows * a.groups) {
    const auto at = [&](const Operand& o) { return address_or_null<T>(block, o, task); };
    stats = at(a.stats), n = at(a.n), x = at(a.x), y_bar = at(a.y_bar);
    x_dot = at(a.x_dot), y_bar_dot = at(a.y_bar_dot);
  }

  template <bool kTangent>
  FASTMAML_DEVICE Pair term(int64_t pixel, int64_t j, int64_t group) const {
    const int64_t row = quotient(pixel, args.pixels);
    const int64_t set = row * args.groups + group, i = pixel * args.channels + j;
    const NormSet<T> norm{stats[set], stats[sets + set]};
    const T h = norm.h(x[i]), bar = y_bar[i];
    if constexpr (!kTangent) return {bar, bar * h};
    const Pair means{load_or(n, set, T(0)), load_or(n, sets + set, T(0))};
    const T bar_dot = y_bar_dot[i], h_dot = norm.h_dot(load_or(x_dot, i, T(0)), h, means);
    return {bar_dot, bar_dot * h + bar * h_dot};
  }

  FASTMAML_DEVICE void run(int64_t chunk, const NormMemory<T>& memory) const {
    const int64_t rows = args.rows * args.pixels;
    const Columns columns(Columns::choose(rows, args.channels));
    const int64_t j = chunk * columns.count + columns.column;
    const int64_t group = j / (args.channels / args.groups);
    const int64_t count = j < args.channels ? rows : 0;
    const Pair sums =
        args.pass == PassKind::backward
            ? columns.sum<Pair>(count, memory.pairs,
                                [&](int64_t pixel) { return term<false>(pixel, j, group); })
            : columns.sum<Pair>(count, memory.pairs,
                                [&](int64_t pixel) { return term<true>(pixel, j, group); });
    if (j >= args.channels || columns.lane > 0) return;
    const auto put = [&](const Operand& out, const Operand& cin, int scale, T sum) {
      if (!out) return;
      const T* from = address_or_null<T>(block, cin, task);
      address<T>(block, out, task)[j] = sum * block.scalar<T>(scale) + load_or(from, j, T(0));
    };
    put(args.weight_out, args.weight_cin, args.weight_scale, sums.two);
    put(args.bias_out, args.bias_cin, args.bias_scale, sums.one);
  }
};

template <class T>
FASTMAML_DEVICE void run_pass(const GroupNormArgs& args, const Block& block, int64_t task) {
  const GroupNormUnits units(args);
  const NormMemory<T> memory(block);
  for (int64_t unit = block.rank; unit < units.units; unit += block.size) {
    const int64_t first = unit - units.chunks;
    if (first < 0) {
      GroupNormParams<T>(args, block, task).run(unit, memory);
      continue;
    }
    const Columns team(units.columns, units.by_warp);
    const int64_t set = first * units.side_by_side +
                        (units.by_warp ? static_cast<int>(threadIdx.x) / kWarp : team.column);
    GroupNormSet<T>(args, units, block, task, set, team, memory).run();
  }
}

inline int64_t units(const GroupNormArgs& args) { return GroupNormUnits(args).units; }

}  // namespace fastmaml::device
