// The contraction on one core: which form an instruction takes, task by task or stacked.
//
// Each output element is summed over its terms in one order, whatever tile it falls into and
// whichever thread computes it: that is what makes results bitwise independent of threads and of
// neighbouring tasks.
#pragma once

#include "ops/contract/contract.hpp"
#include "ops/contract/contract_inner_cpu.hpp"
#include "ops/contract/contract_outer_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// --- sums of rows, m == 1 ---

// cin + scale * value, gated, for the columns from j on.
template <class T, class Read>
FASTMAML_INLINE Vec<T> finished(const Contraction<T>& p, Vec<T> value, int64_t j, Read&& read) {
  if (p.scale != T(1)) value *= splat(p.scale);
  if (p.cin) value = read(p.cin + j) + value;
  if (p.gate == Gate::open) return value;
  return gated<Vec<T>, T>(p.gate, value, p.gate_by ? read(p.gate_by + j) : value);
}

// k == 1 everywhere: c = cin + scale * sum of multiples of rows, one pass over memory.
template <class T>
void row_sum(const Contraction<T>& p, const Context& context) {
  const Share share(context, p.n, kWidth<T>);
  auto column = [&](auto read, int64_t j) __attribute__((always_inline)) {
    Vec<T> value{};
    for (int s = 0; s < p.count; ++s)
      value += splat(p.segments[s].a[0]) * read(p.segments[s].b + j);
    return finished<T>(p, value, j, read);
  };
  each_vector<T>(
      share.begin, share.end,
      [&](int64_t j) { store(p.c + j, column([](const T* q) { return load(q); }, j)); },
      [&](int64_t j, const Tail<T>& tail) {
        tail.store(p.c + j, column([&](const T* q) { return tail.load(q); }, j));
      });
}

// NV vectors of columns of a sum over many rows, which may all be alike: short chains, some of them
// under way at once.
template <class T, int NV, class Read, class Write>
FASTMAML_INLINE void long_columns(const Contraction<T>& p, int64_t j, Read&& read, Write&& write) {
  constexpr int W = kWidth<T>, kAtOnce = 4;
  LongSum<T> all[NV];
  Vec<T> chain[kAtOnce][NV] = {};
  const auto fold = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      all[v].add((chain[0][v] + chain[1][v]) + (chain[2][v] + chain[3][v]));
#pragma GCC unroll 8
      for (int q = 0; q < kAtOnce; ++q) chain[q][v] = Vec<T>{};
    }
  };
  int64_t room = kAtOnce * kShortChain;
  for (int s = 0; s < p.count; ++s) {
    const Segment<T>& segment = p.segments[s];
    const T *a = segment.a, *b = segment.b + j;
    const auto step = [&](int q) __attribute__((always_inline)) {
      const Vec<T> av = splat(*a);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) chain[q][v] += av * read(b + v * W);
      a += segment.a_col, b += segment.b_row;
    };
    for (int64_t left = segment.k; left > 0;) {
      if (room == 0) fold(), room = kAtOnce * kShortChain;
      int64_t count = left < room ? left : room;
      left -= count, room -= count;
      for (; count >= kAtOnce; count -= kAtOnce)
#pragma GCC unroll 8
        for (int q = 0; q < kAtOnce; ++q) step(q);
      for (; count > 0; --count) step(0);
    }
  }
  fold();
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v)
    write(p.c + j + v * W, finished<T>(p, all[v].value(), j + v * W, read));
}

template <class T>
void long_row_sum(const Contraction<T>& p, const Context& context) {
  constexpr int64_t kWide = kVectorTile * kWidth<T>;
  const Share share(context, p.n, kWide);
  const auto whole = [](const T* q) { return load(q); };
  const auto put = [](T* q, Vec<T> value) { store(q, value); };
  int64_t j = share.begin;
  for (; j + kWide <= share.end; j += kWide) long_columns<T, kVectorTile>(p, j, whole, put);
  each_vector<T>(
      j, share.end, [&](int64_t i) { long_columns<T, 1>(p, i, whole, put); },
      [&](int64_t i, const Tail<T>& tail) {
        long_columns<T, 1>(
            p, i, [&](const T* q) { return tail.load(q); },
            [&](T* q, Vec<T> value) { tail.store(q, value); });
      });
}

// --- the instruction -----------------------------------------------------------------------------

// One instruction on this thread: its terms for the task at hand, and how its problems are cut.
template <class T>
class Contractor {
 public:
  Contractor(const ContractArgs& args, const Context& context, int64_t m, int64_t flatten)
      : args_(args), context_(context), flatten_(flatten) {
    p_.segments = segments_;
    p_.m = m, p_.n = args.n, p_.c_row = args.c_row;
    p_.scale = static_cast<const T*>(context.scalars)[args.scale];
  }

  // Tasks [0, count), one after another. Most have few terms: these are read once, and then step
  // from task to task.
  void tasks(int64_t count) {
    if (args_.terms.size() > kMaxSegments) {
      for (int64_t g = 0; g < count; ++g) in_runs(g);
      return;
    }
    const Form form = start(0, 0, args_.terms.size());
    if (p_.count > 0 || p_.c != p_.cin || p_.gate != Gate::open) solve(form, count);
  }

 private:
  // How a problem is solved: by inner products, as a sum of a few rows or of many, by one tile, by
  // many, or by tiles of very long sums.
  enum class Form { inner, rows, long_rows, tile, outer, deep };

  // Terms in runs of at most kMaxSegments; later runs start from what the earlier left in c.
  void in_runs(int64_t g) {
    for (size_t t = 0; t < args_.terms.size(); t += kMaxSegments) {
      const size_t end =
          t + kMaxSegments < args_.terms.size() ? t + kMaxSegments : args_.terms.size();
      const Form form = start(g, t, end);
      if (t > 0) p_.cin = p_.c, p_.cin_row = p_.c_row, p_.start();
      if (p_.count > 0 || p_.c != p_.cin || p_.gate != Gate::open) solve(form, 1);
    }
  }

  // Reads the terms [begin, end) for task g.
  Form start(int64_t g, size_t begin, size_t end) {
    p_.c = address<T>(context_, args_.c, g), p_.c_row = args_.c_row;
    p_.cin = args_.cin ? address<T>(context_, args_.cin, g) : nullptr, p_.cin_row = args_.cin_row;
    p_.gate = end == args_.terms.size() ? args_.gate : Gate::open;
    p_.gate_by = args_.gate_by ? address<T>(context_, args_.gate_by, g) : nullptr;
    p_.count = 0;
    p_.start();
    int64_t depth = 0;
    bool rows = p_.m == 1 && p_.n > kVectorTile * kWidth<T>;
    for (size_t t = begin; t < end; ++t) {
      const ContractTerm& term = args_.terms[t];
      steps_[p_.count] = {term.a.stride, term.b.stride};
      Segment<T>& segment = segments_[p_.count++];
      segment = {address<T>(context_, term.a, g),
                 term.a_row,
                 term.a_col,
                 address<T>(context_, term.b, g),
                 term.b_row,
                 term.b_col,
                 term.k};
      if (flatten_ > 1) {
        // The sum runs over the tasks too: their rows touch, so l simply runs on.
        if (term.k == 1) segment.a_col = term.a.stride, segment.b_row = term.b.stride;
        segment.k *= flatten_;
      }
      rows = rows && segment.k == 1;
      depth += segment.k;
    }
    if (args_.dot) return Form::inner;
    if (rows) return Form::rows;
    // The order of stacked sums must not depend on how many tasks are stacked.
    if (args_.m == 1 && !args_.stack && depth > kChain) return Form::long_rows;
    if (!args_.stack && depth > kDeep) return Form::deep;
    const bool single = context_.size == 1 && p_.n <= kVectorTile * kWidth<T> &&
                        p_.m <= row_tile<T>((p_.n + kWidth<T> - 1) / kWidth<T>);
    return single ? Form::tile : Form::outer;
  }

  // On to the next task.
  void step() {
    p_.c += args_.c.stride;
    if (p_.cin) p_.cin += args_.cin.stride;
    if (p_.so_far) p_.so_far += args_.cin.stride;
    if (p_.gate_by) p_.gate_by += args_.gate_by.stride;
    for (int s = 0; s < p_.count; ++s) segments_[s].a += steps_[s].a, segments_[s].b += steps_[s].b;
  }

  // The task at hand and those after it, `count` in all. What is the same for all is made once.
  void solve(Form form, int64_t count) {
    if (form == Form::inner) {
      each(count, [&] { inner_contract(p_, context_); });
    } else if (form == Form::rows) {
      each(count, [&] { row_sum(p_, context_); });
    } else if (form == Form::long_rows) {
      each(count, [&] { long_row_sum(p_, context_); });
    } else if (form == Form::tile) {
      const OuterTile<T> tile = outer_tile_for<T>(static_cast<int>(p_.m), p_.n);
      const int edge = edge_lanes<T>(p_.n);
      each(count, [&] { tile(p_, 0, 0, edge); });
    } else {
      const Tiling<T> tiling(p_.m, p_.n, context_);
      if (form == Form::deep && tiling.rows.parts < kRowsToPack)
        each(count, [&] { outer_deep(p_, tiling, context_); });
      else
        each(count, [&] { outer_contract(p_, tiling, context_); });
    }
  }

  template <class Solve>
  void each(int64_t count, Solve&& one) {
    one();
    for (int64_t g = 1; g < count; ++g) step(), one();
  }

  struct Step {
    int64_t a, b;
  };

  const ContractArgs& args_;
  const Context& context_;
  const int64_t flatten_;
  Contraction<T> p_{};
  Segment<T> segments_[kMaxSegments];
  Step steps_[kMaxSegments];
};

template <class T>
void run_kernel(const ContractArgs& args, const Context& context) {
  if (args.c.stride == 0)
    Contractor<T>(args, context, args.m, context.tasks).tasks(1);
  else if (args.stack)
    Contractor<T>(args, context, args.m * context.tasks, 1).tasks(1);
  else
    Contractor<T>(args, context, args.m, 1).tasks(context.tasks);
}

}  // namespace fastmaml::FASTMAML_ISA
