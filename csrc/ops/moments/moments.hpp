// moments: what a convolution's epilogue leaves of its output for the batch norm that reads it.
//
//   of each group of rows and each channel:   mean    = mean_rows x
//                                             squares = sum_rows (x - mean)^2        [groups, 2, F]
//
// No instruction of its own: the convolution writes them while the rows are at hand, and the norm
// merges the groups in their order, so that it reads x once, to normalise it. Squares are of
// deviations, so that nothing cancels, and groups follow from the shapes alone.
#pragma once

#include <cstdint>

#include "ops/operand.hpp"

namespace fastmaml {

// Which rows are a group. The pixels of `rows / (h * w)` images fall into tiles of `tile` x `tile`,
// cut off at an image's edge; a group is the next `each` tiles. Tiles of one pixel: so many rows,
// one after the other.
struct MomentGroups {
  int64_t rows = 0, h = 1, w = 1;
  int64_t tile = 1, each = 0;  // each 0: no moments are wanted

  constexpr explicit operator bool() const { return each > 0; }
  constexpr int64_t count() const { return (tiles() + each - 1) / each; }
  // Rows of group g.
  constexpr int64_t rows_of(int64_t g) const { return before(g + 1) - before(g); }
  // Rows of all groups before g.
  constexpr int64_t before(int64_t g) const {
    const int64_t first = g * each < tiles() ? g * each : tiles();
    if (tile == 1) return first;
    const int64_t image = first / image_tiles(), at = first - image * image_tiles();
    const int64_t y = at / across(), x = at - y * across();
    const int64_t left = h - y * tile, height = left < tile ? left : tile;
    return (image * h + y * tile) * w + (x > 0 ? height * x * tile : 0);
  }

 private:
  constexpr int64_t across() const { return (w + tile - 1) / tile; }
  constexpr int64_t image_tiles() const { return (h + tile - 1) / tile * across(); }
  constexpr int64_t tiles() const { return tile == 1 ? rows : rows / (h * w) * image_tiles(); }
};

// Rows of a group on the CPU: about what a first-level cache holds, and never few.
constexpr int64_t cpu_moment_rows(int64_t features) {
  constexpr int64_t kNumbers = 4096, kFewest = 16;
  return kNumbers / features < kFewest ? kFewest : kNumbers / features;
}

struct Moments {
  Operand at;  // [groups, 2, F]
  MomentGroups groups;
};

}  // namespace fastmaml
