// The inner form: both factors run along contiguous l, and each output is a horizontal sum.
#pragma once

#include "ops/contract/contract_problem_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// --- inner products ------------------------------------------------------------------------------

template <class T, int MR, int NR>
void inner_tile(const Contraction<T>& p, int64_t i, int64_t j) {
  constexpr int W = kWidth<T>;
  Vec<T> acc[MR][NR] = {};
  for (int s = 0; s < p.count; ++s) {
    const Segment<T>& segment = p.segments[s];
    const T* a = segment.a + i * segment.a_row;
    const T* b = segment.b + j * segment.b_col;
    auto step = [&](auto read, int64_t l) __attribute__((always_inline)) {
      Vec<T> bv[NR];
#pragma GCC unroll 8
      for (int v = 0; v < NR; ++v) bv[v] = read(b + v * segment.b_col + l);
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) {
        const Vec<T> av = read(a + r * segment.a_row + l);
#pragma GCC unroll 8
        for (int v = 0; v < NR; ++v) acc[r][v] += av * bv[v];
      }
    };
    int64_t l = 0;
    for (; l + W <= segment.k; l += W) step([](const T* q) { return load(q); }, l);
    if (l < segment.k) {
      const Tail<T> tail(static_cast<int>(segment.k - l));
      step([&](const T* q) { return tail.load(q); }, l);
    }
  }
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NR; ++v) {
      T value = p.scale * sum<T>(acc[r][v]);
      if (p.cin) value += p.cin[(i + r) * p.cin_row + j + v];
      p.c[(i + r) * p.c_row + j + v] = value;
    }
}

template <class T, int MR>
FASTMAML_INLINE void inner_columns(const Contraction<T>& p, int64_t i, int64_t j, int64_t count) {
  switch (count) {
    case 1: return inner_tile<T, MR, 1>(p, i, j);
    case 2: return inner_tile<T, MR, 2>(p, i, j);
    case 3: return inner_tile<T, MR, 3>(p, i, j);
    default: return inner_tile<T, MR, 4>(p, i, j);
  }
}

template <class T>
void inner_contract(const Contraction<T>& p, const Context& context) {
  constexpr int kRows = kVectorBytes == 64 ? 4 : 2;  // 4 x 4 or 2 x 4 accumulators
  const Cut rows(p.m, kRows), columns(p.n, 4);
  const Share share(context, rows.parts * columns.parts);
  for (int64_t unit = share.begin; unit < share.end; ++unit) {
    const int64_t r = unit / columns.parts, c = unit % columns.parts;
    const int64_t i = rows.begin(r), j = columns.begin(c);
    const int64_t height = rows.begin(r + 1) - i, width = columns.begin(c + 1) - j;
    if (height == 1) inner_columns<T, 1>(p, i, j, width);
    if (height == 2) inner_columns<T, 2>(p, i, j, width);
    if constexpr (kRows == 4) {
      if (height == 3) inner_columns<T, 3>(p, i, j, width);
      if (height == 4) inner_columns<T, 4>(p, i, j, width);
    }
  }
}

}  // namespace fastmaml::FASTMAML_ISA
