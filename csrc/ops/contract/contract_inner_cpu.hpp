// The inner form: both factors run along contiguous l, and each output is a horizontal sum.
#pragma once

#include "ops/contract/contract_tile_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// --- inner products ------------------------------------------------------------------------------

// Adds a tile's chains to those before them, if there are any, and begins new ones.
template <class T, int MR, int NR>
FASTMAML_INLINE void fold_inner(Vec<T> (&acc)[MR][NR], T* held, bool folded) {
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NR; ++v, held += kWidth<T>) {
      store(held, folded ? load(held) + acc[r][v] : acc[r][v]);
      acc[r][v] = splat<T>(0);
    }
}

template <class T, int MR, int NR>
void inner_tile(const Contraction<T>& p, int64_t i, int64_t j) {
  constexpr int W = kWidth<T>;
  Vec<T> acc[MR][NR] = {};
  T held[MR * NR * W];  // the sum of earlier chains
  int64_t room = kChain;
  bool folded = false;
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
    for (int64_t left = segment.k / W; left > 0;) {
      if (room == 0) [[unlikely]] {
        fold_inner<T>(acc, held, folded);
        room = kChain, folded = true;
      }
      const int64_t count = left < room ? left : room;
      left -= count, room -= count;
      for (const int64_t end = l + count * W; l < end; l += W)
        step([](const T* q) { return load(q); }, l);
    }
    if (l < segment.k) {
      const Tail<T> tail(static_cast<int>(segment.k - l));
      step([&](const T* q) { return tail.load(q); }, l);
    }
  }
  if (folded) [[unlikely]]
    fold_inner<T>(acc, held, true);
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NR; ++v) {
      T value = p.scale * sum<T>(folded ? load(held + (r * NR + v) * W) : acc[r][v]);
      if (p.cin) value += p.cin[(i + r) * p.cin_row + j + v];
      const int64_t at = (i + r) * p.c_row + j + v;
      if (p.gate == Gate::itself && value <= T(0)) value = T(0);
      if (p.gate == Gate::operand && !(p.gate_by[at] > T(0))) value = T(0);
      p.c[at] = value;
    }
}

// The tile is as square as the registers allow: MR * NR accumulators, NR vectors of b, one of a.
template <class T>
constexpr int kInnerRows = kVectorBytes == 64 && !kFewTiles<T> ? 5 : 3;
template <class T>
constexpr int kInnerColumns = kVectorBytes == 64 && !kFewTiles<T> ? 5 : 4;

template <class T>
using InnerTile = void (*)(const Contraction<T>&, int64_t, int64_t);

template <class T, int MR>
FASTMAML_INLINE InnerTile<T> inner_columns(int64_t count) {
  static constexpr InnerTile<T> table[] = {inner_tile<T, MR, 1>, inner_tile<T, MR, 2>,
                                           inner_tile<T, MR, 3>, inner_tile<T, MR, 4>,
                                           inner_tile<T, MR, kInnerColumns<T>>};
  return table[count - 1];
}

template <class T>
FASTMAML_INLINE InnerTile<T> inner_tile_for(int64_t rows, int64_t columns) {
  if constexpr (kInnerRows<T> == 5) {
    if (rows == 5) return inner_columns<T, 5>(columns);
    if (rows == 4) return inner_columns<T, 4>(columns);
  }
  if (rows == 3) return inner_columns<T, 3>(columns);
  if (rows == 2) return inner_columns<T, 2>(columns);
  return inner_columns<T, 1>(columns);
}

template <class T>
void inner_contract(const Contraction<T>& p, const Context& context) {
  const Cut rows(p.m, kInnerRows<T>), columns(p.n, kInnerColumns<T>);
  const Share share(context, rows.parts * columns.parts);
  int64_t r = share.begin / columns.parts, c = share.begin - r * columns.parts;
  for (int64_t unit = share.begin; unit < share.end; ++unit) {
    const int64_t i = rows.begin(r), j = columns.begin(c);
    inner_tile_for<T>(rows.begin(r + 1) - i, columns.begin(c + 1) - j)(p, i, j);
    if (++c == columns.parts) c = 0, ++r;
  }
}

}  // namespace fastmaml::FASTMAML_ISA
