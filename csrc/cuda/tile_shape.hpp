// Which tile of cuda/tile.cuh a contraction takes. No CUDA here: the planner asks too.
#pragma once

#include <cstdint>

namespace fastmaml {

constexpr int kTileColumns = 64, kNarrowColumns = 32;
// Few rows take the low tile: a task's support set rarely fills the high one. Where `narrow`, few
// columns take the narrow one.
constexpr int kHighTile = 64, kLowTile = 16, kNarrowTile = 128;
constexpr int64_t kLowRows = 24;  // up to so many

// Rows of the tile for m rows of n columns.
constexpr int64_t tile_rows(int64_t m, int64_t n, bool narrow = false) {
  if (m <= kLowRows) return kLowTile;
  return narrow && n <= kNarrowColumns ? kNarrowTile : kHighTile;
}

// How many blocks a problem can occupy.
constexpr int64_t tile_count(int64_t m, int64_t n, bool narrow = false) {
  const int64_t rows = tile_rows(m, n, narrow);
  const int64_t columns = rows == kNarrowTile ? kNarrowColumns : kTileColumns;
  return (m + rows - 1) / rows * ((n + columns - 1) / columns);
}

}  // namespace fastmaml
