// One problem of the convolution as the kernels see it, and what both forms share: panels of
// columns, heights of tiles, folded chains.
//
// A tile's columns are the whole vectors of a full panel or of half of one, or vectors and a masked
// one; rows come in few heights. Channels of real networks are 32, 64 and multiples, so a finer
// choice, as contractions have it, would only grow the library.
#pragma once

#include "ops/contract/contract_tile_cpu.hpp"
#include "ops/conv2d/conv2d.hpp"

namespace fastmaml::FASTMAML_ISA {

constexpr int kMostConvTerms = 2;

// One task and one group of channels.
template <class T>
struct ConvProblem {
  const Stencil* stencil;
  const T *a[kMostConvTerms], *b[kMostConvTerms];
  int terms;
  int64_t a_pixel, a_image;  // elements between pixels, between images
  int64_t b_pixel, b_image;  // weights form
  int64_t k, n, images;
  T* c;
  const T* cin;
  int64_t c_row, cin_row;  // elements between c's pixels (images) or channels of a (weights)
  int64_t c_image;
  T scale;
  T* moments;  // images form: [groups, 2, c_row], from this group of channels on; may be null
  MomentGroups moment_groups;
};

// The columns in panels of at most kVectorTile vectors.
template <class T>
struct ConvPanels {
  Cut cut;
  int64_t n;
  explicit ConvPanels(int64_t columns)
      : cut((columns + kWidth<T> - 1) / kWidth<T>, kVectorTile), n(columns) {}
  int64_t begin(int64_t panel) const { return cut.begin(panel) * kWidth<T>; }
  int64_t width(int64_t panel) const {
    const int64_t stop = begin(panel + 1);
    return (stop < n ? stop : n) - begin(panel);
  }
  // Rows of the tallest tile of all panels.
  int tallest() const { return row_tile<T>(cut.size + (cut.larger > 0)); }
};

// `count` rows in tiles of the tallest height, and the few left over in heights that exist.
struct Heights {
  int64_t count, tallest, whole;  // `whole` tiles of the tallest height
  Heights(int64_t rows, int64_t most) : count(rows), tallest(most), whole(rows / most) {}
  static int64_t largest(int64_t left) { return left >= 6 ? 6 : left >= 4 ? 4 : left; }
  int64_t parts() const {
    const int64_t left = count - whole * tallest;
    return whole + (left > 0) + (left > largest(left));
  }
  int64_t begin(int64_t part) const {
    return part <= whole ? part * tallest : whole * tallest + largest(count - whole * tallest);
  }
  int64_t height(int64_t part) const {
    return part < whole ? tallest : largest(count - begin(part));
  }
};

// Chains of multiply-adds, folded into a second accumulator when they grow long (see kChain). It
// lies apart from the first, which would otherwise leave the registers. (The contraction's tile has
// its own, whose rows may begin in c: shared with it, weight gradients took 2 to 4% longer.)
template <class T, int MR, int NF, class Edge>
struct Fold {
  static constexpr int64_t kRow = (NF + Edge::kVectors) * kWidth<T>;
  T held[MR * kRow];
};

template <class T, int MR, int NF, class Edge>
FASTMAML_INLINE void fold(TileSum<T, MR, NF, Edge>& sum, Fold<T, MR, NF, Edge>& to,
                          const T*& folded, const Edge& edge) {
  if (folded) sum.add(folded, to.kRow, edge);
  sum.store_to(to.held, to.kRow, edge);
  sum.clear();
  folded = to.held;
}

// Where the rows of a tile lie: what they are summed from in a, and in c.
struct TileRows {
  int64_t from[kMostRows], to[kMostRows];
};

// c = cin + sum: all of it is read before any is written, for rows may be listed twice.
template <class T, int MR, int NF, class Edge>
FASTMAML_INLINE void write_rows(TileSum<T, MR, NF, Edge>& sum, const TileRows& rows, const T* cin,
                                bool cin_rows, T* c, const Edge& edge) {
  constexpr int W = kWidth<T>;
  if (cin) {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const T* from = cin + (cin_rows ? rows.to[r] : 0);
#pragma GCC unroll 8
      for (int v = 0; v < NF; ++v) sum.acc[r][v] = load(from + v * W) + sum.acc[r][v];
      if constexpr (Edge::kVectors > 0)
        sum.acc_edge[r] = edge.load(from + NF * W) + sum.acc_edge[r];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NF; ++v) store(c + rows.to[r] + v * W, sum.acc[r][v]);
    if constexpr (Edge::kVectors > 0) edge.store(c + rows.to[r] + NF * W, sum.acc_edge[r]);
  }
}

// The tile of Form for `rows` rows (a height of `Heights`, or rounded up to one) of `width`
// columns.
template <class T, template <class, int, int, class> class Form, int NF, class Edge>
FASTMAML_INLINE auto tile_of_height(int64_t rows) {
  constexpr int kTallest = row_tile<T>(NF + Edge::kVectors);
  if (rows > 6) return &Form<T, kTallest, NF, Edge>::run;
  if (rows > 4) return &Form < T, kTallest < 6 ? kTallest : 6, NF, Edge > ::run;
  if (rows == 3) return &Form<T, Form<T, 1, NF, Edge>::kThree, NF, Edge>::run;
  if (rows == 4) return &Form<T, 4, NF, Edge>::run;
  if (rows == 2) return &Form<T, 2, NF, Edge>::run;
  return &Form<T, 1, NF, Edge>::run;
}

template <class T, template <class, int, int, class> class Form>
FASTMAML_INLINE auto conv_tile_for(int64_t rows, int64_t width) {
  const int64_t whole = (width - 1) / kWidth<T>;
  if (width == kVectorTile * kWidth<T>)
    return tile_of_height<T, Form, kVectorTile, NoEdge<T>>(rows);
  if constexpr (kVectorTile == 4) {
    if (width == 2 * kWidth<T>) return tile_of_height<T, Form, 2, NoEdge<T>>(rows);
    if (whole == 3) return tile_of_height<T, Form, 3, MaskedEdge<T>>(rows);
    if (whole == 2) return tile_of_height<T, Form, 2, MaskedEdge<T>>(rows);
  }
  if (whole == 1) return tile_of_height<T, Form, 1, MaskedEdge<T>>(rows);
  return tile_of_height<T, Form, 0, MaskedEdge<T>>(rows);
}

}  // namespace fastmaml::FASTMAML_ISA
