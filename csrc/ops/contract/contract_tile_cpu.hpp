// The register tile of the outer form, and which tile a problem takes.
//
// MR rows x (NF whole vectors + an edge) of c stay in registers while l runs over all terms; per l
// the tile loads its vectors of b and broadcasts MR numbers of a. The edge is a masked vector, or a
// masked half vector where the columns left over fit into one (a half costs half on processors that
// split wide vectors).
#pragma once

#include "ops/contract/contract_problem_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

template <class T>
struct NoEdge {
  static constexpr int kVectors = 0;
  FASTMAML_INLINE explicit NoEdge(int) {}
  FASTMAML_INLINE Vec<T> load(const T*) const { return Vec<T>{}; }
  FASTMAML_INLINE void store(T*, Vec<T>) const {}
  static FASTMAML_INLINE Vec<T> part(Vec<T> v) { return v; }
};
template <class T>
struct MaskedEdge : Tail<T> {
  static constexpr int kVectors = 1;
  FASTMAML_INLINE explicit MaskedEdge(int lanes) : Tail<T>(lanes) {}
  static FASTMAML_INLINE Vec<T> part(Vec<T> v) { return v; }
};
template <class T>
struct HalfEdge : HalfTail<T> {
  static constexpr int kVectors = 1;
  FASTMAML_INLINE explicit HalfEdge(int lanes) : HalfTail<T>(lanes) {}
  static FASTMAML_INLINE Half<T> part(Vec<T> v) { return low_half<T>(v); }
};

// One tile while it is summed: acc[MR][NF] and an edge.
template <class T, int MR, int NF, class Edge>
struct TileSum {
  static constexpr int W = kWidth<T>, kAtLeastOne = NF > 0 ? NF : 1;
  static constexpr bool kEdge = Edge::kVectors > 0;
  using EdgeVec = decltype(Edge::part(Vec<T>{}));
  Vec<T> acc[MR][kAtLeastOne];
  EdgeVec acc_edge[MR];

  FASTMAML_INLINE void clear() {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < NF; ++v) acc[r][v] = Vec<T>{};
      if constexpr (kEdge) acc_edge[r] = EdgeVec{};
    }
  }

  // acc += a[:, l] b[l, :] for `count` l's, to which a and b move on; meanwhile fetches `ahead`,
  // step by step.
  FASTMAML_INLINE void chain(const T*& a, int64_t a_row, int64_t a_col, const T*& b, int64_t b_row,
                             int64_t count, const Edge& edge, const T*& ahead, int64_t step) {
    for (; count > 0; --count, a += a_col, b += b_row, ahead += step) {
      fetch(ahead);
      Vec<T> bv[kAtLeastOne];
#pragma GCC unroll 8
      for (int v = 0; v < NF; ++v) bv[v] = load(b + v * W);
      const auto b_edge = edge.load(b + NF * W);
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) {
        // One broadcast from memory for all: the multipliers' ports stay free of shuffles.
        const Vec<T> av = splat(a[r * a_row]);
#pragma GCC unroll 8
        for (int v = 0; v < NF; ++v) acc[r][v] += av * bv[v];
        if constexpr (kEdge) acc_edge[r] += Edge::part(av) * b_edge;
      }
    }
  }

  // Rows that will be read or written when the sum is done.
  static FASTMAML_INLINE void fetch_rows(const T* at, int64_t row) {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r, at += row)
#pragma GCC unroll 8
      for (int v = 0; v < NF + Edge::kVectors; ++v) fetch(at + v * W);
  }

  // acc = rows + acc, rows at `from`.
  FASTMAML_INLINE void add(const T* from, int64_t row, const Edge& edge) {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r, from += row) {
#pragma GCC unroll 8
      for (int v = 0; v < NF; ++v) acc[r][v] = load(from + v * W) + acc[r][v];
      if constexpr (kEdge) acc_edge[r] = edge.load(from + NF * W) + acc_edge[r];
    }
  }

  FASTMAML_INLINE void scale(T by) {
    const Vec<T> factor = splat(by);
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < NF; ++v) acc[r][v] *= factor;
      if constexpr (kEdge) acc_edge[r] *= Edge::part(factor);
    }
  }

  // `by` is null where each number is its own gate.
  FASTMAML_INLINE void pass_gate(Gate gate, const T* by, int64_t row, const Edge& edge) {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < NF; ++v)
        acc[r][v] = gated<Vec<T>, T>(gate, acc[r][v], by ? load(by + r * row + v * W) : acc[r][v]);
      if constexpr (kEdge)
        acc_edge[r] = gated<EdgeVec, T>(gate, acc_edge[r],
                                        by ? edge.load(by + r * row + NF * W) : acc_edge[r]);
    }
  }

  FASTMAML_INLINE void store_to(T* to, int64_t row, const Edge& edge) const {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r, to += row) {
#pragma GCC unroll 8
      for (int v = 0; v < NF; ++v) store(to + v * W, acc[r][v]);
      if constexpr (kEdge) edge.store(to + NF * W, acc_edge[r]);
    }
  }
};

// The tile of c at (i, j); chains run on from segment to segment.
template <class T, int MR, int NF, class Edge>
void outer_tile(const Contraction<T>& p, int64_t i, int64_t j, int edge_lanes) {
  constexpr auto kLine = static_cast<int64_t>(kLineBytes / sizeof(T));
  const Edge edge(edge_lanes);
  constexpr int64_t kRow = (NF + Edge::kVectors) * kWidth<T>;
  T held[MR * kRow];  // the second accumulator, see kChain
  const T* so_far = p.so_far ? p.so_far + i * p.so_far_row + j : nullptr;
  int64_t so_far_row = p.so_far_row, room = p.chain;
  TileSum<T, MR, NF, Edge> sum;
  sum.clear();
  sum.fetch_rows(p.c + i * p.c_row + j, p.c_row);
  const Segment<T>* const end = p.segments + p.count;
  for (const Segment<T>* s = p.segments; s != end; ++s) {
    const T *a = s->a + i * s->a_row, *b = s->b + j;
    // What later tiles read of a no hardware foresees: the next line of each column, or the rows
    // below, taken as one piece of memory.
    const T* ahead = s->a_row == 1 ? a + kLine : a + MR * s->a_row;
    const int64_t step = s->a_row == 1 ? s->a_col : MR;
    for (int64_t left = s->k; left > 0;) {
      if (room == 0) [[unlikely]] {
        if (so_far) sum.add(so_far, so_far_row, edge);
        sum.store_to(held, kRow, edge);
        sum.clear();
        so_far = held, so_far_row = kRow, room = p.chain;
      }
      const int64_t count = left < room ? left : room;
      // Rows that touch are addressed by constants.
      if (s->a_row == 1)
        sum.chain(a, 1, s->a_col, b, s->b_row, count, edge, ahead, step);
      else
        sum.chain(a, s->a_row, s->a_col, b, s->b_row, count, edge, ahead, step);
      left -= count, room -= count;
    }
  }
  if (so_far) sum.add(so_far, so_far_row, edge);
  if (p.scaled) {
    sum.scale(p.scale);
    if (p.cin) sum.add(p.cin + i * p.cin_row + j, p.cin_row, edge);
  }
  if (p.gate != Gate::open)
    sum.pass_gate(p.gate, p.gate_by ? p.gate_by + i * p.c_row + j : nullptr, p.c_row, edge);
  sum.store_to(p.c + i * p.c_row + j, p.c_row, edge);
}

template <class T>
using OuterTile = void (*)(const Contraction<T>&, int64_t, int64_t, int);

constexpr int kVectorTile = kVectorBytes == 64 ? 4 : 2;
// float64 has fewer tiles: the last tenth of its speed is not worth the larger library.
template <class T>
constexpr bool kFewTiles = sizeof(T) == sizeof(double);
// Rows of a tile of NV vectors: as many accumulators as leave registers for b and a broadcast.
constexpr int kMostRows = 8;
template <class T>
FASTMAML_INLINE constexpr int row_tile(int64_t vectors) {
  if (kFewTiles<T>) return 4;
  return kVectorBytes == 64 ? (vectors >= 4 ? 6 : 8) : (vectors >= 2 ? 6 : 8);
}

template <class T, int NF, class Edge>
FASTMAML_INLINE OuterTile<T> outer_rows(int rows) {
  // Never instantiates a tile that is not used, or would spill.
  constexpr int kMost = row_tile<T>(NF + Edge::kVectors);
  constexpr auto most = [](int height) { return height < kMost ? height : kMost; };
  static constexpr OuterTile<T> table[kMostRows] = {
      outer_tile<T, 1, NF, Edge>,       outer_tile<T, 2, NF, Edge>,
      outer_tile<T, 3, NF, Edge>,       outer_tile<T, 4, NF, Edge>,
      outer_tile<T, most(5), NF, Edge>, outer_tile<T, most(6), NF, Edge>,
      outer_tile<T, most(7), NF, Edge>, outer_tile<T, most(8), NF, Edge>};
  return table[rows - 1];
}

template <class T, int NF>
FASTMAML_INLINE OuterTile<T> outer_edge(int rows, int lanes) {
  if constexpr (kHasHalf && sizeof(T) == sizeof(float))
    if (lanes <= kWidth<T> / 2) return outer_rows<T, NF, HalfEdge<T>>(rows);
  return outer_rows<T, NF, MaskedEdge<T>>(rows);
}

// Lanes of the masked vector that ends `width` columns; all of them where it is whole.
template <class T>
FASTMAML_INLINE int edge_lanes(int64_t width) {
  return static_cast<int>((width - 1) % kWidth<T>) + 1;
}

// The tile for `rows` rows of `width` columns. Whole vectors short of a full tile are a masked one
// where tiles are few.
template <class T>
FASTMAML_INLINE OuterTile<T> outer_tile_for(int rows, int64_t width) {
  if (width == kVectorTile * kWidth<T>) return outer_rows<T, kVectorTile, NoEdge<T>>(rows);
  const int lanes = edge_lanes<T>(width), whole = static_cast<int>((width - lanes) / kWidth<T>);
  if constexpr (!kFewTiles<T>) {
    if (lanes == kWidth<T>) {
      if constexpr (kVectorTile == 4) {
        if (whole == 2) return outer_rows<T, 3, NoEdge<T>>(rows);
        if (whole == 1) return outer_rows<T, 2, NoEdge<T>>(rows);
      }
      return outer_rows<T, 1, NoEdge<T>>(rows);
    }
  }
  if constexpr (kVectorTile == 4) {
    if (whole == 3) return outer_edge<T, 3>(rows, lanes);
    if (whole == 2) return outer_edge<T, 2>(rows, lanes);
  }
  if (whole == 1) return outer_edge<T, 1>(rows, lanes);
  return outer_edge<T, 0>(rows, lanes);
}

}  // namespace fastmaml::FASTMAML_ISA
