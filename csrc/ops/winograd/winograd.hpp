// winograd: 3 x 3 convolutions of stride 1 with fewer multiplications, by the methods
// F(m x m, 3 x 3), m = 5 or 6: 49 instead of 225 for 25 pixels, 64 instead of 324 for 36; forward
// m = 2: 16 instead of 36 for 4. No op of its own but a second way to run a ConvArgs.
//
// An output tile of m x m pixels needs an input tile of (m + 2) x (m + 2). At each of as many
// points p:
//
//   images:    V = B^T d B of the input tile,  U = G w G^T of the weight,
//              M[p] = sum_terms V[p] U[p],     c = cin + A^T M A
//   weights:   Z = A d A^T of the cotangent's tile,
//              M[p] = sum_(terms, tiles) V[p]^T Z[p],     c = cin + scale * G^T M G
//
// In one dimension that is a product of polynomials, evaluated at m + 2 places, of which infinity
// is one: 0, +-1 for m = 2, +-2/7, +-6/7, +-7/4 for m = 5, 0, +-1/2, +-1, +-2 for m = 6. The places
// decide how much the transforms magnify rounding. For independent numbers the factor is a third of
// the mean, over the outputs y of one dimension, of sum_p (A^T)_yp^2 |B^T_p|^2 |G_p|^2: 1.7, 9.5
// and 20.6 here, where no symmetric places have less than 9.5 for m = 5 and 20.6 for m = 6.
// Measured against a plain sum, whose own terms round, too (float32, both forms, sums of 300 to
// 8,000 products), errors are 2.1 to 4.1 times as large for m = 5, 3.7 to 8.7 for m = 6.
// `winograd_places_cpu.hpp` has the matrices.
//
// Both terms of a Hessian-vector product meet in M, so that it is transformed back once. The input
// gradient is the images form with the window turned round. The last row or column of tiles may
// reach over the edge: what lies outside reads as 0 and is not written. So that little does, small
// images are first laid out on a sheet, as far apart as the window needs, and the sheet is cut.
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
  int64_t tile = 0;              // m
  int64_t across = 1, down = 1;  // images of a sheet, side by side and one above the other
  // Block sizes. Images: tiles, columns of c; the weights of all columns are made once where
  // `kept`, else a panel's for every block of tiles. Weights: tiles, columns and rows (depth) of c;
  // the pixels of all tiles are made once where `kept`.
  int64_t tile_block = 0, columns = 0, depth = 0;
  bool kept = false;

  explicit operator bool() const { return tile > 0; }
  int64_t side() const { return tile + 2; }
  int64_t points() const { return side() * side(); }
  // From an image of a sheet to the next: neither images nor outputs overlap, no window reaches
  // into both.
  int64_t pitch_y() const { return pitch(from_h, to_h, pad_y); }
  int64_t pitch_x() const { return pitch(from_w, to_w, pad_x); }
  int64_t tiles_y() const { return ((down - 1) * pitch_y() + to_h + tile - 1) / tile; }
  int64_t tiles_x() const { return ((across - 1) * pitch_x() + to_w + tile - 1) / tile; }
  int64_t tiles() const { return tiles_y() * tiles_x(); }  // of one sheet
  int64_t sheets(int64_t images) const { return (images + across * down - 1) / (across * down); }

 private:
  static int64_t pitch(int64_t from, int64_t to, int64_t pad) {
    const int64_t both = from > to ? from : to;
    const int64_t first = from + pad, last = to + 2 - pad;  // of the next image, of this one
    const int64_t reach = first > last ? first : last;
    return both > reach ? both : reach;
  }
};

// The forward pass decides on which side of every kink (ReLU, max-pool) a task falls, and a kink
// crossed by rounding changes the meta-gradient by much more than rounding does: it must not round
// more than a plain sum. With tiles of 2, and sums over the channels in chains of a quarter of the
// usual length, errors are 0.8 to 1.2 times those of the direct way (float32, one layer, sums of
// 288 to 5,760 products), 1.0 to 1.5 times torch's. (Of 150 draws of a pooled network of 48
// channels 10 crossed a kink, and 14 by torch; 23 did with tiles of 4.)
constexpr int64_t kForwardTile = 2, kForwardChain = 64;
// The tiles of the other passes, as the attribute and the setting `winograd` name them.
constexpr int64_t kWinogradTiles[] = {5, 6};
constexpr int kWinogradLine = 64;
// What a pixel outside the images is read from, for some channels at a time.
alignas(kWinogradLine) extern const char kWinogradZeros[8192];

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
