// winograd: 3 x 3 convolutions of stride 1 with 16 multiplications for 4 pixels instead of 36,
// F(2 x 2, 3 x 3): no op of its own but a second way to run a ConvArgs.
//
// An output tile of 2 x 2 pixels needs an input tile of 4 x 4. At each of 16 points p:
//
//   images:    V = B^T d B of the input tile,  U = G w G^T of the weight,
//              M[p] = sum_terms V[p] U[p],     c = cin + A^T M A
//   weights:   Z = A d A^T of the cotangent's tile,
//              M[p] = sum_(terms, tiles) V[p]^T Z[p],     c = cin + scale * G^T M G
//
//   B^T = 1  0 -1  0     G =  1    0    0      A^T = 1  1  1  0
//         0  1  1  0         1/2  1/2  1/2          0  1 -1 -1
//         0 -1  1  0         1/2 -1/2  1/2
//         0  1  0 -1          0    0    1
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
  // Block sizes. Images: tiles, columns of c, rows of the weights (all of them, made once, where
  // `kept`). Weights: tiles, columns and rows of c.
  int64_t tile_block = 0, columns = 0, depth = 0;
  bool kept = false;

  explicit operator bool() const { return to_h > 0; }
  int64_t tiles_x() const { return (to_w + 1) / 2; }
  int64_t tiles() const { return (to_h + 1) / 2 * tiles_x(); }  // of one image
};

constexpr int kWinogradPoints = 16, kWinogradLine = 64;

// 16 matrices [rows, columns] in scratch: rows begin on cache lines, and a line of skew keeps the
// matrices out of each other's cache sets. Sizes in numbers of `bytes` bytes.
struct PlaneSizes {
  int64_t row, plane;
  PlaneSizes(int64_t rows, int64_t columns, int64_t bytes) {
    const int64_t line = kWinogradLine / bytes;
    row = (columns + line - 1) / line * line;
    plane = rows * row + line;
  }
  int64_t total() const { return kWinogradPoints * plane; }
};

// Whether the window can run so: 3 x 3, stride and dilation 1.
bool winograd_takes(const Window& window);
// From the input to the output (the weight's gradient: the same), or back.
Winograd winograd_map(const Window& window, bool towards_in);
// Chooses the block sizes by shapes alone; `bytes` of a number.
void set_winograd_blocks(ConvArgs& args, int64_t bytes);
// What a thread needs.
size_t winograd_scratch_bytes(const ConvArgs& args, int64_t bytes);
// Estimated cycles of the instruction (block sizes set), and of the same without transforms.
double winograd_cycles(const ConvArgs& args, int64_t bytes);
double direct_cycles(const ConvArgs& args, int64_t bytes);

}  // namespace fastmaml
