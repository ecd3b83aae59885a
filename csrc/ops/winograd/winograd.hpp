// winograd: 3 x 3 convolutions of stride 1 with fewer multiplications, by the methods
// F(m x m, 3 x 3), m = 2 or 4: 16 instead of 36 for 4 pixels, 36 instead of 144 for 16. No op of
// its own but a second way to run a ConvArgs.
//
// An output tile of m x m pixels needs an input tile of (m + 2) x (m + 2). At each of as many
// points p:
//
//   images:    V = B^T d B of the input tile,  U = G w G^T of the weight,
//              M[p] = sum_terms V[p] U[p],     c = cin + A^T M A
//   weights:   Z = A d A^T of the cotangent's tile,
//              M[p] = sum_(terms, tiles) V[p]^T Z[p],     c = cin + scale * G^T M G
//
// In one dimension that is a product of polynomials, evaluated at m + 1 places and at infinity: x
// is 0, 1, -1 for m = 2 and 0, 2/3, -2/3, 3/2, -3/2 for m = 4. Places near 1 keep the transforms
// from magnifying rounding (float32, both forms, sums of 150 to 3,000 products: 1.5 to 2.3 times
// the error of a plain sum, where the usual 0, 1, -1, 2, -2 have 3.3 to 5.4 times), those whose
// product is 1 cost fewest operations.
// `winograd_lines_cpu.hpp` has the matrices.
//
// Both terms of a Hessian-vector product meet in M, so that it is transformed back once. The input
// gradient is the images form with the window turned round. The last row or column of tiles may
// reach over the image's edge: what lies outside reads as 0 and is not written.
//
// Nothing transformed outlives the instruction: blocks are made in scratch and used up there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/window/stencil.hpp"

namespace fastmaml {

struct ConvArgs;

// c(y, x) reads a(y - pad_y + ky, x - pad_x + kx); `flipped`: with the weight of tap (2 - ky,
// 2 - kx).
struct Winograd {
  int64_t from_h = 0, from_w = 0, to_h = 0, to_w = 0;
  int64_t pad_y = 0, pad_x = 0;
  bool flipped = false;
  int64_t tile = 0;  // m
  // Block sizes. Images: tiles, columns of c; the weights of all columns are made once where
  // `kept`, else a panel's for every block of tiles. Weights: tiles, columns and rows (depth) of c.
  int64_t tile_block = 0, columns = 0, depth = 0;
  bool kept = false;

  explicit operator bool() const { return tile > 0; }
  int64_t points() const { return (tile + 2) * (tile + 2); }
  int64_t tiles_x() const { return (to_w + tile - 1) / tile; }
  int64_t tiles() const { return (to_h + tile - 1) / tile * tiles_x(); }  // of one image
};

// The tiles there are, as the attribute and the setting `winograd` name them.
constexpr int64_t kWinogradTiles[] = {2, 4};
constexpr int kWinogradLine = 64;

// Matrices [rows, columns] in scratch, one for each point: rows begin on cache lines, and a line of
// skew keeps the matrices out of each other's cache sets. Sizes in numbers of `bytes` bytes.
struct PlaneSizes {
  int64_t row, plane;
  PlaneSizes(int64_t rows, int64_t columns, int64_t bytes) {
    const int64_t line = kWinogradLine / bytes;
    row = (columns + line - 1) / line * line;
    plane = rows * row + line;
  }
};

// Whether the window can run so: 3 x 3, stride and dilation 1.
bool winograd_takes(const Window& window);
// From the input to the output (the weight's gradient: the same), or back.
Winograd winograd_map(const Window& window, bool towards_in, int64_t tile);
// Chooses the block sizes by shapes alone; `bytes` of a number.
void set_winograd_blocks(ConvArgs& args, int64_t bytes);
// What a thread needs.
size_t winograd_scratch_bytes(const ConvArgs& args, int64_t bytes);
// Estimated cycles of the instruction (block sizes set), and of the same without transforms.
double winograd_cycles(const ConvArgs& args, int64_t bytes);
double direct_cycles(const ConvArgs& args, int64_t bytes);

}  // namespace fastmaml
