// patches on the device: a block takes a tile of the covariance and sums it over all places, its
// warps run by run.
//
// A run's products are summed in the plan's dtype, as most devices have few double units; sums of
// runs are double. What is squared is kept small by taking it relative to a centre of its image and
// channel, and each run is then moved to the first image's centre. With y = x - centre, d = that
// centre less the first image's and n places
//
//   sum x[p]      = sum y[p] + n d[p]
//   sum x[p] x[q] = sum y[p] y[q] + d[p] sum y[q] + d[q] sum y[p] + n d[p] d[q]
//
// which holds for any centre: the mean of some pixels does as well as that of all.
#pragma once

#include <cmath>

#include "cuda/reduce.cuh"
#include "ops/patches/patches_device.hpp"

namespace fastmaml::device {

constexpr int kPatchTile = 4, kPatchPairs = kPatchTile * kPatchTile;
constexpr int64_t kPatchRun = 32 * kWarp;     // places of one image: 32 of each lane
constexpr int64_t kCentrePixels = 4 * kWarp;  // pixels that a centre is the mean of

// of[i], from registers: an index that is not known in advance would put the array into memory.
template <class T, int N>
FASTMAML_DEVICE T pick(const T (&of)[N], int i) {
  T picked = of[0];
#pragma unroll
  for (int k = 1; k < N; ++k) picked = k == i ? of[k] : picked;
  return picked;
}

// A task's images and the table that leads places to their pixels.
template <class T>
struct PatchImages {
  const T* x;
  const int32_t* sources;
  int64_t channels, taps, pixels;

  FASTMAML_DEVICE PatchImages(const DevicePatchArgs& args, const Block& block, int64_t task)
      : x(address<T>(block, args.x, task)),
        sources(block.table<int32_t>(args.sources)),
        channels(args.channels),
        taps(args.taps),
        pixels(args.pixels) {}

  FASTMAML_DEVICE const T* image(int64_t r) const { return x + r * pixels * channels; }
  // The same in all lanes of the warp that calls it. Where a pixel is not finite it is 0: a window
  // may step over that pixel.
  FASTMAML_DEVICE T centre(int64_t r, int64_t channel) const {
    const T* from = image(r) + channel;
    const int64_t count = pixels < kCentrePixels ? pixels : kCentrePixels, step = pixels / count;
    T total = 0;
#pragma unroll 1  // for occupancy: unrolled, its loads take a third of all registers
    for (int64_t i = threadIdx.x % kWarp; i < count; i += kWarp) total += from[i * step * channels];
    const T mean = over_warp(total, Plus{}) / static_cast<T>(count);
    return std::isfinite(mean) ? mean : T(0);
  }
};

// The entries of a patch along one side of a tile. Past the last one it is the last again, whose
// sums are left out in the end.
template <class T>
struct PatchSide {
  int32_t tap[kPatchTile], channel[kPatchTile];
  T centre[kPatchTile];  // of the image at hand

  FASTMAML_DEVICE PatchSide(const PatchImages<T>& images, int64_t first) {
    const int64_t last = images.taps * images.channels - 1;
#pragma unroll
    for (int i = 0; i < kPatchTile; ++i) {
      const int64_t p = first + i < last ? first + i : last;
      tap[i] = static_cast<int32_t>(p / images.channels);
      channel[i] = static_cast<int32_t>(p % images.channels);
    }
    move_to(images, 0);
  }
  FASTMAML_DEVICE void move_to(const PatchImages<T>& images, int64_t r) {
#pragma unroll
    for (int i = 0; i < kPatchTile; ++i) centre[i] = images.centre(r, channel[i]);
  }
  // The entries of a place, relative to the centre; taps outside the image are 0.
  FASTMAML_DEVICE void load(const T* image, const int32_t* sources, int64_t channels,
                            T (&to)[kPatchTile]) const {
#pragma unroll
    for (int i = 0; i < kPatchTile; ++i) {
      const int32_t pixel = sources[tap[i]];
      to[i] = (pixel < 0 ? T(0) : image[pixel * channels + channel[i]]) - centre[i];
    }
  }
};

// Sums of a pair of entries, relative to the first image's centre.
struct PairSums {
  double product = 0, row = 0, column = 0;
};

template <class T>
class PatchTile {
 public:
  FASTMAML_DEVICE PatchTile(const DevicePatchArgs& args, const PatchImages<T>& images, int64_t row,
                            int64_t column)
      : args_(args),
        images_(images),
        rows_(images, row),
        columns_(images, column),
        row_origin_(pick(rows_.centre, row_of_pair())),
        column_origin_(pick(columns_.centre, column_of_pair())) {}

  // Lane l has the pair l % kPatchPairs of the tile.
  FASTMAML_DEVICE static int pair() { return threadIdx.x % kPatchPairs; }
  FASTMAML_DEVICE static int row_of_pair() { return pair() / kPatchTile; }
  FASTMAML_DEVICE static int column_of_pair() { return pair() % kPatchTile; }
  FASTMAML_DEVICE double row_origin() const { return row_origin_; }

  // The sums of this warp's runs.
  FASTMAML_DEVICE PairSums sum() {
    PairSums sums;
    const int64_t runs = (args_.places + kPatchRun - 1) / kPatchRun;
    for (int64_t at = threadIdx.x / kWarp; at < args_.images * runs; at += kWarps) {
      const int64_t begin = at % runs * kPatchRun, left = args_.places - begin;
      rows_.move_to(images_, at / runs), columns_.move_to(images_, at / runs);
      add_run(at / runs, begin, left < kPatchRun ? left : kPatchRun, sums);
    }
    return sums;
  }

 private:
  FASTMAML_DEVICE void add_run(int64_t r, int64_t begin, int64_t count, PairSums& sums) const {
    T products[kPatchPairs] = {}, row_sums[kPatchTile] = {}, column_sums[kPatchTile] = {};
    const T* image = images_.image(r);
    for (int64_t o = threadIdx.x % kWarp; o < count; o += kWarp) {
      const int32_t* sources = images_.sources + (begin + o) * images_.taps;
      T a[kPatchTile], b[kPatchTile];
      rows_.load(image, sources, images_.channels, a);
      columns_.load(image, sources, images_.channels, b);
#pragma unroll
      for (int i = 0; i < kPatchTile; ++i) {
        row_sums[i] += a[i], column_sums[i] += b[i];
#pragma unroll
        for (int j = 0; j < kPatchTile; ++j) products[i * kPatchTile + j] += a[i] * b[j];
      }
    }
    over_lanes(products), over_lanes(row_sums), over_lanes(column_sums);
    const int i = row_of_pair(), j = column_of_pair();
    const auto n = static_cast<double>(count);
    const double d_i = pick(rows_.centre, i) - row_origin_;
    const double d_j = pick(columns_.centre, j) - column_origin_;
    const double row = pick(row_sums, i), column = pick(column_sums, j);
    sums.row += row + n * d_i, sums.column += column + n * d_j;
    sums.product += pick(products, pair()) + d_i * column + d_j * (row + n * d_i);
  }

  template <int N>
  FASTMAML_DEVICE static void over_lanes(T (&of)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) of[i] = over_warp(of[i], Plus{});
  }

  const DevicePatchArgs& args_;
  const PatchImages<T>& images_;
  PatchSide<T> rows_, columns_;
  double row_origin_, column_origin_;  // the first image's centre, for the lane's pair
};

// The warps' sums, one after another, in the first kPatchPairs threads. `memory` has room for
// those of each warp and is free again after.
FASTMAML_DEVICE PairSums over_warps(const PairSums& own, PairSums* memory) {
  const int lane = threadIdx.x % kWarp;
  if (lane < kPatchPairs) memory[threadIdx.x / kWarp * kPatchPairs + lane] = own;
  __syncthreads();
  PairSums total;
  if (threadIdx.x < kPatchPairs)
    for (int warp = 0; warp < kWarps; ++warp) {
      const PairSums& other = memory[warp * kPatchPairs + threadIdx.x];
      total.product += other.product, total.row += other.row, total.column += other.column;
    }
  __syncthreads();
  return total;
}

// The tiles on and above the diagonal, row by row: the covariance is symmetric.
struct PatchTiles {
  int64_t across;
  constexpr explicit PatchTiles(int64_t patch) : across((patch + kPatchTile - 1) / kPatchTile) {}
  constexpr int64_t count() const { return across * (across + 1) / 2; }
  constexpr void place(int64_t tile, int64_t& row, int64_t& column) const {
    for (row = 0; tile >= across - row; ++row) tile -= across - row;
    column = row + tile;
  }
};

template <class T>
FASTMAML_DEVICE void run_pass(const DevicePatchArgs& args, const Block& block, int64_t task) {
  const int64_t patch = args.taps * args.channels;
  const PatchTiles tiles(patch);
  const auto places = static_cast<double>(args.images * args.places);
  const PatchImages<T> images(args, block, task);
  auto* mean = reinterpret_cast<double*>(address<T>(block, args.out, task));
  double* cov = mean + patch;
  Carve carve(block);
  auto* memory = carve.take<PairSums>(kWarps * kPatchPairs);
  for (int64_t tile = block.rank; tile < tiles.count(); tile += block.size) {
    int64_t row, column;
    tiles.place(tile, row, column);
    row *= kPatchTile, column *= kPatchTile;
    PatchTile<T> own(args, images, row, column);
    const PairSums sums = over_warps(own.sum(), memory);
    const int64_t p = row + own.row_of_pair(), q = column + own.column_of_pair();
    if (threadIdx.x >= kPatchPairs || p > q || q >= patch) continue;
    if (p == q) mean[p] = sums.row / places + own.row_origin();
    cov[p * patch + q] = cov[q * patch + p] =
        sums.product / places - sums.row / places * (sums.column / places);
  }
}

inline int64_t units(const DevicePatchArgs& args) {
  return PatchTiles(args.taps * args.channels).count();
}

}  // namespace fastmaml::device
