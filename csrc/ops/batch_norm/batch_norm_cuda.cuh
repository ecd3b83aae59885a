// batch_norm on the device: a block takes some features of a task, side by side, and its threads
// share their rows, or those of one run of them (BatchNormArgs::runs).
//
// What a pass sums it sums before it writes a row, with a barrier between them, or in the partial
// instruction before it where blocks take runs, so that rows may be written over those that were
// read (see plan/lifetime.cpp). The mean comes before the squared
// deviations from it, so that nothing cancels. Sums of cotangents meet no row that a pool left out:
// they go over y's rows, `places` here, each with the row of x that it came from.
#pragma once

#include "ops/batch_norm/batch_norm.hpp"
#include "ops/batch_norm/norm_pair_cuda.cuh"
#include "ops/taps/taps_windows_cuda.cuh"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<BatchNormArgs> = {128, 144};

// Rows whose cotangents are their own.
struct PlainRows {
  static constexpr bool kPooled = false, kGated = false;
  int64_t places;
  FASTMAML_DEVICE explicit PlainRows(const BatchNormArgs& args) : places(args.rows) {}
};

// Rows that an activation follows.
struct GatedRows : PlainRows {
  static constexpr bool kGated = true;
  using PlainRows::PlainRows;
};

// Rows that a max-pool follows.
struct PooledRows : PoolCells {
  static constexpr bool kPooled = true, kGated = false;
  int64_t places, cells;
  FASTMAML_DEVICE explicit PooledRows(const BatchNormArgs& args) : PoolCells(args.pool) {
    const int32_t images = divide(static_cast<int32_t>(args.rows), in_h * in_w);
    places = images * out_h * out_w, cells = images * down * across;
  }
};

// The `run`-th of so many parts of n numbers; the last ones may be shorter or empty.
struct RunPart {
  int64_t begin, count;
  FASTMAML_DEVICE RunPart(int64_t n, int64_t run, int64_t runs) {
    const int64_t each = quotient(n + runs - 1, runs);
    begin = run * each < n ? run * each : n;
    count = n - begin < each ? n - begin : each;
  }
};

// One thread's feature j of a task; addresses are that feature's in the first row.
template <class T, class Rows>
struct BatchNormFeature {
  using Pair = NormPair<T>;

  const BatchNormArgs& args;
  const Block& block;
  int64_t task, j, F, run;
  bool exists;  // else the thread only joins in the block's barriers
  const Columns& columns;
  const NormMemory<T>& memory;
  const Rows rows;
  RunPart mine, places;  // rows and places of the run: none unless it exists
  T per_row;             // 1 / R
  NormSet<T> norm;
  T scale, shift;  // weight rstd, bias
  NormGate<T> gate;
  TapByte* tap;

  FASTMAML_DEVICE BatchNormFeature(const BatchNormArgs& a, const Block& b, int64_t t,
                                   int64_t feature, int64_t run_index, const Columns& c,
                                   const NormMemory<T>& m)
      : args(a),
        block(b),
        task(t),
        j(feature),
        F(a.features),
        run(run_index),
        exists(feature < a.features),
        columns(c),
        memory(m),
        rows(a),
        mine(exists ? a.rows : 0, run_index, a.runs),
        places(exists ? rows.places : 0, run_index, a.runs),
        gate{static_cast<T>(a.below)} {
    per_row = 1 / static_cast<T>(args.rows);
    tap = nullptr;
    if constexpr (Rows::kPooled)
      if (args.tap) tap = reinterpret_cast<TapByte*>(address<T>(block, args.tap, task)) + j;
  }

  FASTMAML_DEVICE T* at(const Operand& o) const {
    T* p = address_or_null<T>(block, o, task);
    return p ? p + j : nullptr;
  }
  FASTMAML_DEVICE T number(const Operand& o, T otherwise) const {
    return o && exists ? *at(o) : otherwise;
  }
  // A pair of means over rows that an instruction before left, or 0.
  FASTMAML_DEVICE Pair pair(const Operand& o) const {
    if (!o || !exists) return {T(0), T(0)};
    const T* p = at(o);
    return {p[0], p[F]};
  }
  // The thread that writes what there is one of for each feature.
  FASTMAML_DEVICE bool first() const { return exists && columns.lane == 0 && run == 0; }
  // What this run sums, for the pass itself.
  FASTMAML_DEVICE void leave(const Operand& o, const Pair& value) const {
    if (!exists || columns.lane != 0) return;
    T* p = at(o) + 2 * run * F;
    p[0] = value.one, p[F] = value.two;
  }
  FASTMAML_DEVICE void put(const Operand& o, const Pair& value) const {
    if (!o || !first()) return;
    T* p = at(o);
    p[0] = value.one, p[F] = value.two;
  }
  FASTMAML_DEVICE void set_norm(const Pair& stats) {
    norm = {stats.one, stats.two};
    scale = number(args.weight, T(1)) * norm.rstd, shift = number(args.bias, T(0));
  }
  FASTMAML_DEVICE T affine(T value) const { return (value - norm.mean) * scale + shift; }

  // --- places ------------------------------------------------------------------------------------

  // The row that place o of y came from. Where a window chose none, any of its rows: loads that
  // wait for no branch are under way sooner.
  struct Origin {
    int64_t row;
    bool any;
  };
  FASTMAML_DEVICE Origin origin(int64_t o) const {
    if constexpr (Rows::kPooled) {
      const int chosen = tap[o * F];
      return {rows.row_of(static_cast<int32_t>(o), chosen < 0 ? 0 : chosen), chosen >= 0};
    } else {
      return {o, true};
    }
  }
  // The cotangent `bar` of a place whose row has this x, behind the activation. That of a pool
  // shows in its taps.
  FASTMAML_DEVICE T behind_gate(T value, T bar) const {
    if constexpr (Rows::kGated) return gate.of(affine(value), bar);
    return bar;
  }
  // store(row, value(row, bar, bar_dot)) for every row, with the cotangents that come in for it.
  // y_bar_dot is null where there is none.
  template <class Value>
  FASTMAML_DEVICE void write_rows(T* out, const T* y_bar, const T* y_bar_dot, Value&& value) const {
    const auto store = [&](int64_t i, T v) { out[i * F] = v; };
    if constexpr (Rows::kPooled) {
      const RunPart cells(exists ? rows.cells : 0, run, args.runs);
      for (int64_t c = columns.lane; c < cells.count; c += columns.lanes) {
        const PoolCells::Cell cell = rows.cell(static_cast<int32_t>(cells.begin + c));
        const bool any = cell.window >= 0;
        const int chosen = any ? tap[cell.window * F] : -1;
        const T bar = any ? y_bar[cell.window * F] : T(0);
        const T bar_dot = any && y_bar_dot ? y_bar_dot[cell.window * F] : T(0);
        const auto y = [&](int64_t k) { return quotient(k, cell.width); };
        const auto row = [&](int64_t k) {
          return cell.row + y(k) * rows.in_w + (k - y(k) * cell.width);
        };
        store_each<T>(
            0, 1, cell.height * cell.width,
            [&](int64_t k) {  // a cell with a window is whole, so that its rows count as taps
              return value(row(k), k == chosen ? bar : T(0), k == chosen ? bar_dot : T(0));
            },
            [&](int64_t k, T v) { store(row(k), v); });
      }
    } else {
      each(
          mine, [&](int64_t i) { return value(i, y_bar[i * F], load_or(y_bar_dot, i * F, T(0))); },
          store);
    }
  }

  // --- runs --------------------------------------------------------------------------------------

  template <class Sum, class Term>
  FASTMAML_DEVICE Sum sum(const RunPart& part, Sum* to, Term&& term) const {
    return columns.sum<Sum>(part.count, to, [&](int64_t i) { return term(part.begin + i); });
  }
  template <class Value, class Store>
  FASTMAML_DEVICE void each(const RunPart& part, Value&& value, Store&& store) const {
    columns.template each<T>(
        part.count, [&](int64_t i) { return value(part.begin + i); },
        [&](int64_t i, T v) { store(part.begin + i, v); });
  }
  // The sums of a pass over a run: of all of them where their sums are there.
  template <class Term>
  FASTMAML_DEVICE Pair sums(const RunPart& part, Term&& term) const {
    if (args.partial || !args.sums) return sum<Pair>(part, memory.pairs, term);
    const T* of = at(args.sums);
    return columns.sum<Pair>(exists ? args.runs : 0, memory.pairs,
                             [&](int64_t r) { return Pair{of[2 * r * F], of[(2 * r + 1) * F]}; });
  }

  // --- the passes --------------------------------------------------------------------------------

  // Mean and variance of all rows from the moments of groups of them. The mean comes first, so that
  // the groups' own means deviate from it and nothing cancels.
  FASTMAML_DEVICE Pair merged_moments() const {
    const T* of = at(args.moments);
    const int64_t each = args.moment_groups.each;
    const int64_t groups = exists ? quotient(args.rows + each - 1, each) : 0;
    const auto rows_of = [&](int64_t g) {
      const int64_t left = args.rows - g * each;
      return static_cast<T>(left < each ? left : each);
    };
    const T mean = per_row * columns.sum<T>(groups, memory.numbers(),
                                            [&](int64_t g) { return rows_of(g) * of[2 * g * F]; });
    const T squares = columns.sum<T>(groups, memory.numbers(), [&](int64_t g) {
      const T d = of[2 * g * F] - mean;
      return of[(2 * g + 1) * F] + rows_of(g) * d * d;
    });
    return {mean, per_row * squares};
  }

  // The mean and the summed squared deviations of the run.
  FASTMAML_DEVICE Pair own_moments(const T* x) const {
    const T total = sum<T>(mine, memory.numbers(), [&](int64_t i) { return x[i * F]; });
    const T mean = total / static_cast<T>(mine.count > 0 ? mine.count : 1);
    const T squares = sum<T>(mine, memory.numbers(), [&](int64_t i) {
      const T d = x[i * F] - mean;
      return d * d;
    });
    return {mean, squares};
  }

  FASTMAML_DEVICE void forward() {
    const T* x = at(args.x);
    if (args.partial) return leave(args.moments, own_moments(x));
    Pair moments{number(args.running_mean, T(0)), number(args.running_var, T(0))};
    if (args.moments) {
      moments = merged_moments();
    } else if (args.batch_stats) {
      moments = own_moments(x);
      moments.two *= per_row;
    }
    moments.two = T(1) / std::sqrt(moments.two + static_cast<T>(args.eps));
    put(args.stats, moments);
    set_norm(moments);
    T* out = at(args.out);
    const auto y = [&](int64_t i) { return affine(x[i * F]); };
    if constexpr (Rows::kPooled) {
      const int64_t stop = places.begin + places.count;
      for (int64_t w = places.begin + columns.lane; w < stop; w += columns.lanes) {
        const PoolCells::Choice<T> choice = rows.template choose<T>(
            static_cast<int32_t>(w), args.activation != Activation::none, y);
        out[w * F] = choice.value, tap[w * F] = choice.tap;
      }
    } else {
      each(
          mine,
          [&](int64_t i) {
            const T value = y(i);
            return behind_gate(x[i * F], value);
          },
          [&](int64_t i, T v) { out[i * F] = v; });
    }
  }

  FASTMAML_DEVICE void backward() {
    set_norm(pair(args.stats));
    const T *x = at(args.x), *y_bar = at(args.y_bar);
    Pair all = sums(places, [&](int64_t o) {
      const Origin from = origin(o);
      const T value = x[from.row * F], d = behind_gate(value, y_bar[o * F]);
      return from.any ? Pair{d, d * (value - norm.mean)} : Pair{T(0), T(0)};
    });
    if (args.partial) return leave(args.sums, all);
    all.two *= norm.rstd;
    write_params(all);
    Pair m = all * per_row;
    put(args.m, m);
    if (!args.out) return;
    if (!args.batch_stats) m = {T(0), T(0)};
    const T* cin = at(args.cin);
    write_rows(at(args.out), y_bar, nullptr, [&](int64_t i, T bar, T) {
      const T value = x[i * F], d = behind_gate(value, bar);
      return scale * norm.centred(d, norm.h(value), m) + load_or(cin, i * F, T(0));
    });
  }

  FASTMAML_DEVICE void forward_jvp() {
    set_norm(pair(args.stats));
    const T *x = at(args.x), *x_dot = at(args.x_dot);
    Pair n{T(0), T(0)};
    if (args.n || args.partial) {
      n = sums(mine, [&](int64_t i) {
        const T d = x_dot[i * F];
        return Pair{d, d * (x[i * F] - norm.mean)};
      });
      if (args.partial) return leave(args.sums, n);
      n = Pair{n.one, n.two * norm.rstd} * per_row;
      put(args.n, n);
    }
    const T weight = number(args.weight, T(1)), weight_dot = number(args.weight_dot, T(0));
    const T bias_dot = number(args.bias_dot, T(0));
    T* out = at(args.out);
    each(
        places,
        [&](int64_t o) {
          const Origin from = origin(o);
          const T value = x[from.row * F], h = norm.h(value);
          const T h_dot = norm.h_dot(load_or(x_dot, from.row * F, T(0)), h, n);
          const T dot = behind_gate(value, weight * h_dot + weight_dot * h + bias_dot);
          return from.any ? dot : T(0);
        },
        [&](int64_t o, T v) { out[o * F] = v; });
  }

  FASTMAML_DEVICE void backward_jvp() {
    set_norm(pair(args.stats));
    const T *x = at(args.x), *x_dot = at(args.x_dot);
    const T *y_bar = at(args.y_bar), *y_bar_dot = at(args.y_bar_dot);
    const Pair n = pair(args.n), m = pair(args.m);
    const auto h_dot_at = [&](int64_t i, T h) {
      return norm.h_dot(load_or(x_dot, i * F, T(0)), h, n);
    };
    const Pair all = sums(places, [&](int64_t o) {
      const Origin from = origin(o);
      const T value = x[from.row * F], h = norm.h(value);
      const T d = behind_gate(value, y_bar[o * F]), d_dot = behind_gate(value, y_bar_dot[o * F]);
      const Pair term{d_dot, d_dot * h + d * h_dot_at(from.row, h)};
      return from.any ? term : Pair{T(0), T(0)};
    });
    if (args.partial) return leave(args.sums, all);
    write_params(all);
    if (!args.out) return;
    const Pair m_dot = all * (args.batch_stats ? per_row : T(0));
    const T scale_dot = number(args.weight_dot, T(0)) * norm.rstd - scale * norm.rstd * n.two;
    const T* cin = at(args.cin);
    write_rows(at(args.out), y_bar, y_bar_dot, [&](int64_t i, T bar, T bar_dot) {
      const T value = x[i * F], h = norm.h(value), h_dot = h_dot_at(i, h);
      const T d = behind_gate(value, bar), d_dot = behind_gate(value, bar_dot);
      return scale_dot * norm.centred(d, h, m) +
             scale * norm.centred_dot(d_dot, h, h_dot, m, m_dot) + load_or(cin, i * F, T(0));
    });
  }

  // The cotangents, or their tangents, of weight and bias.
  FASTMAML_DEVICE void write_params(const Pair& sums) const {
    if (!first()) return;
    if (args.weight_out)
      *at(args.weight_out) =
          sums.two * block.scalar<T>(args.weight_scale) + number(args.weight_cin, T(0));
    if (args.bias_out)
      *at(args.bias_out) =
          sums.one * block.scalar<T>(args.bias_scale) + number(args.bias_cin, T(0));
  }

  FASTMAML_DEVICE void pass() {
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

template <class T, class Rows>
FASTMAML_DEVICE void run_batch_norm(const BatchNormArgs& args, const Block& block, int64_t task) {
  const Columns columns(Columns::choose(args.rows, args.features));
  const NormMemory<T> memory(block);
  const int64_t chunks = Columns::chunks(args.rows, args.features);
  for (int64_t unit = block.rank; unit < chunks * args.runs; unit += block.size) {
    const int64_t run = quotient(unit, chunks), first = (unit - run * chunks) * columns.count;
    BatchNormFeature<T, Rows>(args, block, task, first + columns.column, run, columns, memory)
        .pass();
  }
}

template <class T>
FASTMAML_DEVICE void run_pass(const BatchNormArgs& args, const Block& block, int64_t task) {
  if (args.pool)
    run_batch_norm<T, PooledRows>(args, block, task);
  else if (args.activation != Activation::none)
    run_batch_norm<T, GatedRows>(args, block, task);
  else
    run_batch_norm<T, PlainRows>(args, block, task);
}

inline int64_t units(const BatchNormArgs& args) {
  return Columns::chunks(args.rows, args.features) * args.runs;
}

}  // namespace fastmaml::device
