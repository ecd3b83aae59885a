// Which tiles of a contraction are a block's, and how they multiply.
#pragma once

#include "cuda/forms.hpp"
#include "cuda/tile_split.cuh"

namespace fastmaml::device {

// How tiles make their products: multiply-adds in T; or see cuda/tile_tf32.cuh. And which tiles a
// kernel has.
template <class T>
struct FmaTiles {
  static constexpr bool kHigh = true, kNarrow = true, kOthers = true;
  static constexpr TileShape kSmall = TileShape::small;
  template <int TM, int TN, class Problem>
  using Tile = device::Tile<T, TM, TN, Problem>;
};
// Those of deep sums.
template <DepthSplit split>
struct SplitTiles {
  static constexpr bool kHigh = split == DepthSplit::high || split == DepthSplit::weights;
  static constexpr bool kNarrow = split == DepthSplit::narrow || split == DepthSplit::weights;
  static constexpr bool kOthers = split == DepthSplit::others;
  static constexpr TileShape kSmall = TileShape::small;
  template <int TM, int TN, class Problem>
  using Tile = SplitTile<float, TM, TN, Problem>;
};
template <class Tiles>
constexpr DepthSplit kSplit = DepthSplit::none;
template <DepthSplit split>
constexpr DepthSplit kSplit<SplitTiles<split>> = split;

// The tiles of a problem that are this block's. `turn` is its next tile, counted from the problem's
// first: one variable for all problems of an instruction deals their tiles out evenly.
template <class Tiles, class Store, TileShape kShape, class Problem>
FASTMAML_DEVICE void run_tiles(const Problem& problem, const Block& block, int32_t& turn) {
  constexpr int TM = tile_rows(kShape), TN = tile_columns(kShape);
  using Task = typename Tiles::template Tile<TM, TN, Problem>;
  const typename Task::Memory memory(block);
  const int32_t m = problem.m, n = problem.n;
  const int32_t across = (n + TN - 1) / TN, tiles = across * ((m + TM - 1) / TM);
  for (; turn < tiles; turn += static_cast<int32_t>(block.size))
    Task(problem, memory, turn / across * TM, turn % across * TN).template run<Store>();
  turn -= tiles;
}

// `rows` chooses the tile: those of all problems of the instruction that a column has.
template <class Tiles, class Store, class Problem>
FASTMAML_DEVICE void contract(const Problem& problem, const Block& block, int64_t rows,
                              int32_t& turn) {
  const TileShape shape = tile_shape(rows, problem.n);
  if constexpr (Tiles::kHigh)
    if (shape == TileShape::high)
      return run_tiles<Tiles, Store, TileShape::high>(problem, block, turn);
  if constexpr (Tiles::kNarrow)
    if (shape == TileShape::narrow)
      return run_tiles<Tiles, Store, TileShape::narrow>(problem, block, turn);
  if constexpr (Tiles::kOthers) {
    if (shape == TileShape::middle)
      return run_tiles<Tiles, Store, TileShape::middle>(problem, block, turn);
    if (shape == TileShape::small)
      return run_tiles<Tiles, Store, Tiles::kSmall>(problem, block, turn);
    run_tiles<Tiles, Store, TileShape::low>(problem, block, turn);
  }
}

}  // namespace fastmaml::device
