// batch_norm on the CPU: block of rows by block of rows, a vector of features at a time.
//
// A thread takes a range of (task, feature) pairs, or where a task's rows outgrow its caches some
// blocks of rows: memory then comes as one stream. Nothing is summed over features, and sums are
// added up block by block, so that numbers do not depend on who makes them; memory is read in
// order, and rounding errors grow with the blocks rather than the rows.
#pragma once

#include "cpu/math.hpp"
#include "ops/batch_norm/batch_norm_rows_cpu.hpp"
#include "ops/batch_norm/norm_formulas.hpp"
#include "ops/moments/moments_rows_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// One task's operands, see BatchNormArgs; null where absent.
template <class T, class Rows>
struct BatchNormTask {
  using Pair = NormPair<T>;
  using Sums = NormSums<T>;

  const BatchNormArgs& args;
  const Rows rows;
  int64_t F;
  T per_row;  // 1 / R
  const T *x, *weight, *bias, *running_mean, *running_var, *moments;
  const T *y_bar, *x_dot, *weight_dot, *bias_dot, *y_bar_dot, *cin, *weight_cin, *bias_cin;
  T *stats, *m, *n, *out, *weight_out, *bias_out;
  TapByte* tap;
  T weight_scale, bias_scale;
  NormGate<T> gate;

  BatchNormTask(const BatchNormArgs& a, const Context& context, int64_t task)
      : args(a), rows(a), F(a.features), per_row(1 / static_cast<T>(a.rows)) {
    const auto at = [&](const Operand& o) { return address_or_null<T>(context, o, task); };
    x = at(a.x), weight = at(a.weight), bias = at(a.bias);
    running_mean = at(a.running_mean), running_var = at(a.running_var), moments = at(a.moments);
    y_bar = at(a.y_bar), x_dot = at(a.x_dot), y_bar_dot = at(a.y_bar_dot), cin = at(a.cin);
    weight_dot = at(a.weight_dot), bias_dot = at(a.bias_dot);
    weight_cin = at(a.weight_cin), bias_cin = at(a.bias_cin);
    stats = at(a.stats), m = at(a.m), n = at(a.n);
    tap = reinterpret_cast<TapByte*>(at(a.tap)), gate.below = static_cast<T>(a.below);
    out = at(a.out), weight_out = at(a.weight_out), bias_out = at(a.bias_out);
    const T* scalars = static_cast<const T*>(context.scalars);
    weight_scale = scalars[a.weight_scale], bias_scale = scalars[a.bias_scale];
  }

  // Row i of a tensor. A block is read a vector of features at a time, and threads may share the
  // features: no stream without holes, so the next block's row is asked for here. (Behind a pool
  // few rows have a cotangent: there asking costs a backward pass more than it brings.)
  static constexpr bool kAskBackward = !Rows::kPooled;
  template <bool kAsk = true>
  FASTMAML_INLINE Vec<T> row(const T* of, int64_t i, int64_t j, Lanes<T> l) const {
    const T* const at = of + i * F + j;
    if constexpr (kAsk) fetch(at + rows.ahead() * F);
    return l.load(at);
  }
  template <bool kAsk = true>
  FASTMAML_INLINE void put_row(T* of, int64_t i, int64_t j, Lanes<T> l, Vec<T> value) const {
    T* const at = of + i * F + j;
    if constexpr (kAsk) fetch(at + rows.ahead() * F);
    l.store(at, value);
  }

  // --- what comes in for a row -------------------------------------------------------------------

  // What the passes after forward know of a vector of features.
  struct Norm : NormSet<T> {
    Vec<T> scale, shift;  // weight rstd, bias
    FASTMAML_INLINE Vec<T> affine(Vec<T> value) const {
      return (value - this->mean) * scale + shift;
    }
  };
  FASTMAML_INLINE Norm norm(int64_t j, Lanes<T> l) const {
    const Vec<T> rstd = l.load(stats + F + j);
    return {{l.load(stats + j), rstd}, l.load_or(weight, j, T(1)) * rstd, l.load_or(bias, j, T(0))};
  }
  // The cotangent in `bars` (y_bar or y_bar_dot) of a row whose x and place in a window are given.
  FASTMAML_INLINE Vec<T> incoming(const T* bars, Vec<T> value, const Norm& norm, int64_t window,
                                  int64_t at, int64_t j, Lanes<T> l) const {
    if constexpr (Rows::kPooled) {
      const Vec<T> zero = splat<T>(0);
      if (window < 0) return zero;
      return select<T>(load_taps<T>(tap + window * F + j, l) == splat_tap<T>(at),
                       l.load(bars + window * F + j), zero);
    } else if constexpr (Rows::kGated) {
      return gate.of(norm.affine(value), row(bars, window, j, l));
    } else {
      return row(bars, window, j, l);
    }
  }

  // Those in `means` [2, F], or 0.
  FASTMAML_INLINE Pair pair(const T* means, int64_t j, Lanes<T> l) const {
    return {l.load_or(means, j, T(0)), means ? l.load(means + F + j) : splat<T>(0)};
  }

  // --- sums over rows ---------------------------------------------------------------------------

  // The mean and the summed squared deviations of block b.
  FASTMAML_INLINE Sums block_moments(int64_t b, int64_t j, Lanes<T> l) const {
    Vec<T> total = splat<T>(0), off = splat<T>(0), squares = splat<T>(0);
    rows.each(b, [&](int64_t i, int64_t, int64_t) { total += row(x, i, j, l); });
    const Vec<T> mean = total * splat<T>(1 / static_cast<T>(rows.count(b)));
    rows.each(b, [&](int64_t i, int64_t, int64_t) {
      const Vec<T> d = l.load(x + i * F + j) - mean;
      off += d, squares += d * d;
    });
    const Pair all = moments_about<T>(mean, off, squares, rows.count(b));
    return {{all.one}, all.two};
  }

  // The same of all rows, from the moments that came with x.
  FASTMAML_INLINE Sums merge_groups(int64_t j, Lanes<T> l) const {
    const MomentGroups& groups = args.moment_groups;
    Sums all;
    const T* at = moments + j;
    for (int64_t g = 0, seen = 0; seen < args.rows; ++g, at += 2 * F) {
      const int64_t count = groups.rows_of(g);
      all = merge_moments<T>(all, seen, {{l.load(at)}, l.load(at + F)}, count);
      seen += count;
    }
    return all;
  }

  // The two sums of a pass over block b.
  FASTMAML_INLINE Sums block_sums(int64_t b, int64_t j, Lanes<T> l) const {
    const Norm norm = this->norm(j, l);
    LongSum<T> one;
    Vec<T> two = splat<T>(0);
    if (args.pass == PassKind::backward) {
      rows.each(b, [&](int64_t i, int64_t window, int64_t at) {
        const Vec<T> value = row<kAskBackward>(x, i, j, l);
        const Vec<T> d = incoming(y_bar, value, norm, window, at, j, l);
        one.add(d), two += d * (value - norm.mean);
      });
    } else if (args.pass == PassKind::forward_jvp) {
      rows.each(b, [&](int64_t i, int64_t, int64_t) {
        const Vec<T> d = row(x_dot, i, j, l);
        one.add(d), two += d * (row(x, i, j, l) - norm.mean);
      });
    } else {
      const Pair tangents = pair(n, j, l);
      rows.each(b, [&](int64_t i, int64_t window, int64_t at) {
        const Vec<T> value = row(x, i, j, l), h = norm.h(value);
        const Vec<T> d_dot = incoming(y_bar_dot, value, norm, window, at, j, l);
        const Vec<T> d = incoming(y_bar, value, norm, window, at, j, l);
        one.add(d_dot);
        two += d_dot * h + d * h_dot(i, h, norm, tangents, j, l);
      });
    }
    return {one, two};
  }

  FASTMAML_INLINE Vec<T> h_dot(int64_t i, Vec<T> h, const Norm& norm, const Pair& tangents,
                               int64_t j, Lanes<T> l) const {
    return norm.h_dot(x_dot ? row(x_dot, i, j, l) : splat<T>(0), h, tangents);
  }

  // What the pass sums, over block b.
  FASTMAML_INLINE Sums of_block(int64_t b, int64_t j, Lanes<T> l) const {
    return args.pass == PassKind::forward ? block_moments(b, j, l) : block_sums(b, j, l);
  }
  // The same over the `seen` rows before block b, and over b too.
  FASTMAML_INLINE Sums join(Sums before, int64_t seen, const Sums& here, int64_t b) const {
    if (args.pass == PassKind::forward) return merge_moments<T>(before, seen, here, rows.count(b));
    before.one.add(here.one), before.two += here.two;
    return before;
  }

  // Whether the pass sums over rows at all.
  bool sums() const {
    if (args.pass == PassKind::forward) return args.batch_stats;
    return args.pass != PassKind::forward_jvp || n;
  }

  // --- from the sums to what the pass writes of them --------------------------------------------

  FASTMAML_INLINE Pair finish(const Sums& sums, int64_t j, Lanes<T> l) const {
    Pair all = sums.pair();
    switch (args.pass) {
      case PassKind::forward: {
        const Vec<T> mean = args.batch_stats ? all.one : l.load(running_mean + j);
        const Vec<T> var = args.batch_stats ? all.two * per_row : l.load(running_var + j);
        l.store(stats + j, mean);
        l.store(stats + F + j, T(1) / sqrt(var + static_cast<T>(args.eps)));
        return all;
      }
      case PassKind::backward:
        all.two *= l.load(stats + F + j);
        write_params(all, j, l);
        return write_means(m, all, j, l);
      case PassKind::forward_jvp:
        all.two *= l.load(stats + F + j);
        return write_means(n, all, j, l);
      case PassKind::backward_jvp:
        break;
    }
    write_params(all, j, l);
    const T by = args.batch_stats ? per_row : T(0);
    return {all.one * by, all.two * by};
  }

  // The cotangents, or their tangents, of weight and bias.
  FASTMAML_INLINE void write_params(const Pair& all, int64_t j, Lanes<T> l) const {
    if (weight_out)
      l.store(weight_out + j, all.two * weight_scale + l.load_or(weight_cin, j, T(0)));
    if (bias_out) l.store(bias_out + j, all.one * bias_scale + l.load_or(bias_cin, j, T(0)));
  }
  FASTMAML_INLINE Pair write_means(T* means, Pair all, int64_t j, Lanes<T> l) const {
    all.one *= per_row, all.two *= per_row;
    if (means) l.store(means + j, all.one), l.store(means + F + j, all.two);
    return all;
  }

  // --- what the pass writes for each row --------------------------------------------------------

  FASTMAML_INLINE void write(int64_t b, const Pair& means, int64_t j, Lanes<T> l) const {
    switch (args.pass) {
      case PassKind::forward:
        return write_y(b, j, l);
      case PassKind::backward:
        return write_x_bar(b, j, l);
      case PassKind::forward_jvp:
        return write_y_dot(b, j, l);
      case PassKind::backward_jvp:
        return write_x_bar_dot(b, means, j, l);
    }
  }

  FASTMAML_INLINE void write_y(int64_t b, int64_t j, Lanes<T> l) const {
    const Norm norm = this->norm(j, l);
    const auto y = [&](int64_t i) { return norm.affine(row(x, i, j, l)); };
    if constexpr (Rows::kPooled) {
      const bool relu = args.activation == Activation::relu;
      rows.each_window(b, [&](int64_t window, int64_t row) {
        const Strips::Choice<T> choice = rows.template choose<T>(row, relu, y);
        l.store(out + window * F + j, choice.value);
        store_taps<T>(tap + window * F + j, choice.tap, l);
      });
    } else {
      rows.each(b, [&](int64_t i, int64_t, int64_t) {
        Vec<T> value = y(i);
        if constexpr (Rows::kGated) value = gate.of(value, value);
        put_row(out, i, j, l, value);
      });
    }
  }

  FASTMAML_INLINE void write_x_bar(int64_t b, int64_t j, Lanes<T> l) const {
    const Norm norm = this->norm(j, l);
    const Pair means = pair(m, j, l);
    rows.each(b, [&](int64_t i, int64_t window, int64_t at) {
      const Vec<T> value = row<kAskBackward>(x, i, j, l), h = norm.h(value);
      const Vec<T> d = incoming(y_bar, value, norm, window, at, j, l);
      put_row<kAskBackward>(
          out, i, j, l, norm.scale * norm.centred(d, h, means) + l.load_or(cin, i * F + j, T(0)));
    });
  }

  FASTMAML_INLINE void write_y_dot(int64_t b, int64_t j, Lanes<T> l) const {
    const Norm norm = this->norm(j, l);
    const Pair tangents = pair(n, j, l);
    const Vec<T> w = l.load_or(weight, j, T(1)), w_dot = l.load_or(weight_dot, j, T(0));
    const Vec<T> b_dot = l.load_or(bias_dot, j, T(0));
    const auto y_dot = [&](int64_t i, Vec<T> value) {
      const Vec<T> h = norm.h(value);
      return w * h_dot(i, h, norm, tangents, j, l) + w_dot * h + b_dot;
    };
    if constexpr (Rows::kPooled) {
      rows.each_window(b, [&](int64_t window, int64_t row) {
        const Bits<T> chosen = load_taps<T>(tap + window * F + j, l);
        l.store(out + window * F + j, rows.template follow<T>(row, chosen, [&](int64_t i) {
          return y_dot(i, l.load(x + i * F + j));
        }));
      });
    } else {
      rows.each(b, [&](int64_t i, int64_t, int64_t) {
        const Vec<T> value = row(x, i, j, l);
        Vec<T> dot = y_dot(i, value);
        if constexpr (Rows::kGated) dot = gate.of(norm.affine(value), dot);
        put_row(out, i, j, l, dot);
      });
    }
  }

  FASTMAML_INLINE void write_x_bar_dot(int64_t b, const Pair& dots, int64_t j, Lanes<T> l) const {
    const Norm norm = this->norm(j, l);
    const Pair tangents = pair(n, j, l), means = pair(m, j, l);
    const Vec<T> scale_dot =
        l.load_or(weight_dot, j, T(0)) * norm.rstd - norm.scale * norm.rstd * tangents.two;
    rows.each(b, [&](int64_t i, int64_t window, int64_t at) {
      const Vec<T> value = row(x, i, j, l), h = norm.h(value);
      const Vec<T> d = incoming(y_bar, value, norm, window, at, j, l);
      const Vec<T> d_dot = incoming(y_bar_dot, value, norm, window, at, j, l);
      const Vec<T> centred = norm.centred(d, h, means);
      const Vec<T> centred_dot =
          norm.centred_dot(d_dot, h, h_dot(i, h, norm, tangents, j, l), means, dots);
      put_row(out, i, j, l,
              scale_dot * centred + norm.scale * centred_dot + l.load_or(cin, i * F + j, T(0)));
    });
  }

  // --- the whole pass ---------------------------------------------------------------------------

  using Held = NormHeld<T>;
  bool finishes() const { return sums() || args.pass == PassKind::forward; }

  FASTMAML_INLINE void write_block(int64_t b, int64_t begin, int64_t end, const Held& held) const {
    for_lanes<T>(begin, end, [&](int64_t j, Lanes<T> l) {
      write(b, args.pass == PassKind::backward_jvp ? held.get(j) : Pair{}, j, l);
    });
  }

  // Over the features [begin, end), by one thread.
  void run(int64_t begin, int64_t end, T* scratch) const {
    const Held held{scratch - begin, norm_line(end - begin, sizeof(T))};
    if (moments) {
      for_lanes<T>(begin, end, [&](int64_t j, Lanes<T> l) { held.put(j, merge_groups(j, l)); });
    } else if (sums()) {
      int64_t seen = 0;
      for (int64_t b = 0; b < rows.blocks; seen += rows.count(b), ++b)
        for_lanes<T>(begin, end, [&](int64_t j, Lanes<T> l) {
          held.put(j, join(b ? held.sums(j) : Sums{}, seen, of_block(b, j, l), b));
        });
    }
    if (finishes())
      for_lanes<T>(begin, end, [&](int64_t j, Lanes<T> l) {
        held.put(j, finish(sums() ? held.sums(j) : Sums{}, j, l));
      });
    if (!out) return;
    for (int64_t b = 0; b < rows.blocks; ++b) write_block(b, begin, end, held);
  }

  // One phase of one part: a part takes blocks of rows, and between them some features of the
  // blocks' sums, which the team's scratch holds. (Inlined beside `run` it makes small norms
  // slower.)
  [[gnu::noinline]] void run_phase(const Context& context, int phase) const {
    const int64_t line = norm_line(F, sizeof(T));
    const Held held{reinterpret_cast<T*>(context.team_scratch), line};
    const auto part = [&](int64_t b) { return Held{held.at + kNormRows * line * (1 + b), line}; };
    const Share blocks(context, rows.blocks), features(context, F, kWidth<T>);
    if (phase == 0 && sums() && !moments) {
      for (int64_t b = blocks.begin; b < blocks.end; ++b)
        for_lanes<T>(0, F, [&](int64_t j, Lanes<T> l) { part(b).put(j, of_block(b, j, l)); });
    }
    if (phase == 1 && finishes()) {
      for_lanes<T>(features.begin, features.end, [&](int64_t j, Lanes<T> l) {
        Sums all = moments ? merge_groups(j, l) : Sums{};
        int64_t seen = 0;
        if (sums() && !moments)
          for (int64_t b = 0; b < rows.blocks; seen += rows.count(b), ++b)
            all = join(all, seen, part(b).sums(j), b);
        held.put(j, finish(all, j, l));
      });
    }
    if (phase < 2 || !out) return;
    for (int64_t b = blocks.begin; b < blocks.end; ++b) write_block(b, 0, F, held);
  }
};

template <class T, class Rows>
void run_batch_norm(const BatchNormArgs& args, const Context& context) {
  constexpr int64_t kFeatures = static_cast<int64_t>(kScratchBytes) / kNormRows / kLineBytes *
                                kLineBytes / int64_t{sizeof(T)};
  const int64_t F = args.features;
  if (context.phase >= 0) {
    const int phases = args.phases();
    return BatchNormTask<T, Rows>(args, context, context.phase / phases)
        .run_phase(context, context.phase % phases);
  }
  const Share share(context, context.tasks * F, kWidth<T>);
  for (int64_t i = share.begin; i < share.end;) {
    const int64_t task = i / F, begin = i - task * F, left = share.end - task * F;
    int64_t end = left < F ? left : F;
    if (end > begin + kFeatures) end = begin + kFeatures;
    BatchNormTask<T, Rows>(args, context, task)
        .run(begin, end, reinterpret_cast<T*>(context.scratch));
    i = task * F + end;
  }
}

template <class T>
void run_kernel(const BatchNormArgs& args, const Context& context) {
  if (args.pool)
    run_batch_norm<T, PooledRows>(args, context);
  else if (args.activation != Activation::none)
    run_batch_norm<T, GatedRows>(args, context);
  else
    run_batch_norm<T, PlainRows>(args, context);
}

}  // namespace fastmaml::FASTMAML_ISA
