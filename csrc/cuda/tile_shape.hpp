// Which tile of cuda/tile.cuh a contraction takes. No CUDA here: the planner asks too.
#pragma once

#include <cstdint>

namespace fastmaml {

// Threads have 4 x 4 sums of a high or a narrow tile, 2 x 4 of a middle one, 1 x 4 of the others.
enum class TileShape { high, narrow, middle, small, low };

constexpr int tile_rows(TileShape shape) {
  switch (shape) {
    case TileShape::high:
      return 64;
    case TileShape::narrow:
      return 128;
    case TileShape::middle:
    case TileShape::small:
      return 32;
    case TileShape::low:
      break;
  }
  return 16;
}
constexpr bool is_large(TileShape shape) {
  return shape == TileShape::high || shape == TileShape::narrow;
}
constexpr int tile_columns(TileShape shape) {
  return shape == TileShape::narrow || shape == TileShape::small ? 32 : 64;
}

constexpr int64_t tile_count(int64_t m, int64_t n, TileShape shape) {
  const int64_t rows = tile_rows(shape), columns = tile_columns(shape);
  return (m + rows - 1) / rows * ((n + columns - 1) / columns);
}

// The tile for m rows of n columns. Few rows take one that they fill, since a task's support set is
// small, and few tiles are cut smaller: a device has a hundred multiprocessors to fill, and a block
// that is alone on one waits for memory. What is summed does not depend on it; how does where the
// depth is split (cuda/forms.hpp).
constexpr TileShape tile_shape(int64_t m, int64_t n) {
  constexpr int64_t kFew = 8;
  if (m <= tile_rows(TileShape::low)) return TileShape::low;
  const bool narrow = n <= tile_columns(TileShape::small);
  if (!narrow && m <= tile_rows(TileShape::middle)) return TileShape::middle;
  const TileShape large = narrow ? TileShape::narrow : TileShape::high;
  if (tile_count(m, n, large) > kFew) return large;
  return narrow ? TileShape::small : TileShape::middle;
}

// How many blocks a problem can occupy.
constexpr int64_t tile_count(int64_t m, int64_t n) { return tile_count(m, n, tile_shape(m, n)); }

}  // namespace fastmaml
