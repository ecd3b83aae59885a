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

template <>
inline constexpr RegisterBudget kRegisterBudget<DevicePatchArgs> = {128, 168};

static_assert(kMostPatch < 1 << 15, "PatchSide packs entries");

constexpr int kPatchTile = 4, kPatchPairs = kPatchTile * kPatchTile;
constexpr int32_t kPatchRun = 32 * kWarp;     // places of one image: 32 of each lane
constexpr int32_t kCentrePixels = 4 * kWarp;  // pixels that a centre is the mean of

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
  int32_t channels, taps, pixels;  // an image's numbers can be counted in 32 bits

  FASTMAML_DEVICE PatchImages(const DevicePatchArgs& args, const Block& block, int64_t task)
      : x(address<T>(block, args.x, task)),
        sources(block.table<int32_t>(args.sources)),
        channels(static_cast<int32_t>(args.channels)),
        taps(static_cast<int32_t>(args.taps)),
        pixels(static_cast<int32_t>(args.pixels)) {}

  FASTMAML_DEVICE const T* image(int64_t r) const { return x + r * (pixels * channels); }
  // The same in all lanes of the warp that calls it. Where a pixel is not finite it is 0: a window
  // may step over that pixel.
  FASTMAML_DEVICE T centre(int64_t r, int32_t channel) const {
    const T* from = image(r) + channel;
    const int32_t count = pixels < kCentrePixels ? pixels : kCentrePixels, step = pixels / count;
    T total = 0;
#pragma unroll 1  // for occupancy: unrolled, its loads take a third of all registers
    for (int32_t i = threadIdx.x % kWarp; i < count; i += kWarp) total += from[i * step * channels];
    const T mean = over_warp(total, Plus{}) / static_cast<T>(count);
    return std::isfinite(mean) ? mean : T(0);
  }
};

// The entries of a patch along one side of a tile. Past the last one it is the last again, whose
// sums are left out in the end.
template <class T>
struct PatchSide {
  uint32_t entry[kPatchTile];  // tap and channel, in half a register each
  T centre[kPatchTile];        // of the image at hand

  FASTMAML_DEVICE PatchSide(const PatchImages<T>& images, int32_t first) {
    const int32_t last = images.taps * images.channels - 1;
#pragma unroll
    for (int i = 0; i < kPatchTile; ++i) {
      const auto p = static_cast<uint32_t>(first + i < last ? first + i : last);
      const uint32_t tap = p / static_cast<uint32_t>(images.channels);
      entry[i] = tap << 16 | (p - tap * static_cast<uint32_t>(images.channels));
    }
    move_to(images, 0);
  }
  FASTMAML_DEVICE int32_t tap(int i) const { return static_cast<int32_t>(entry[i] >> 16); }
  FASTMAML_DEVICE int32_t channel(int i) const { return static_cast<int32_t>(entry[i] & 0xffff); }
  FASTMAML_DEVICE void move_to(const PatchImages<T>& images, int64_t r) {
#pragma unroll
    for (int i = 0; i < kPatchTile; ++i) centre[i] = images.centre(r, channel(i));
  }
  // The entries of a place, relative to the centre; taps outside the image are 0.
  FASTMAML_DEVICE void load(const T* image, const int32_t* sources, int32_t channels,
                            T (&to)[kPatchTile]) const {
#pragma unroll
    for (int i = 0; i < kPatchTile; ++i) {
      const int32_t pixel = sources[tap(i)];
      to[i] = (pixel < 0 ? T(0) : image[pixel * channels + channel(i)]) - centre[i];
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
  FASTMAML_DEVICE PatchTile(const DevicePatchArgs& args, const PatchImages<T>& images, int32_t row,
                            int32_t column)
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
  FASTMAML_DEVICE double row_origin() const { return static_cast<double>(row_origin_); }
  FASTMAML_DEVICE double column_origin() const { return static_cast<double>(column_origin_); }

  // Leaves the sums of this warp's runs in `memory`, which has room for those of each warp. They
  // grow there: registers are what a tile is short of.
  FASTMAML_DEVICE void sum(PairSums* memory) {
    const int lane = threadIdx.x % kWarp;
    PairSums* own =
        lane < kPatchPairs ? memory + threadIdx.x / kWarp * kPatchPairs + lane : nullptr;
    if (own) *own = {};
    const auto places = static_cast<int32_t>(args_.places);
    const int32_t runs = (places + kPatchRun - 1) / kPatchRun;
    const int32_t all = static_cast<int32_t>(args_.images) * runs;
    for (int32_t at = threadIdx.x / kWarp; at < all; at += kWarps) {
      const int32_t image = at / runs, begin = (at - image * runs) * kPatchRun;
      const int32_t left = places - begin;
      rows_.move_to(images_, image), columns_.move_to(images_, image);
      add_run(image, begin, left < kPatchRun ? left : kPatchRun, own);
    }
  }

 private:
  FASTMAML_DEVICE void add_run(int32_t r, int32_t begin, int32_t count, PairSums* own) const {
    T products[kPatchPairs] = {}, row_sums[kPatchTile] = {}, column_sums[kPatchTile] = {};
    const T* image = images_.image(r);
    for (int32_t o = threadIdx.x % kWarp; o < count; o += kWarp) {
      const int32_t* sources = images_.sources + int64_t{begin + o} * images_.taps;
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
    if (!own) return;
    const int i = row_of_pair(), j = column_of_pair();
    const auto n = static_cast<double>(count);
    const double d_i = static_cast<double>(pick(rows_.centre, i)) - row_origin();
    const double d_j = static_cast<double>(pick(columns_.centre, j)) - column_origin();
    const double row = pick(row_sums, i), column = pick(column_sums, j);
    own->row += row + n * d_i, own->column += column + n * d_j;
    own->product += pick(products, pair()) + d_i * column + d_j * (row + n * d_i);
  }

  template <int N>
  FASTMAML_DEVICE static void over_lanes(T (&of)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) of[i] = over_warp(of[i], Plus{});
  }

  const DevicePatchArgs& args_;
  const PatchImages<T>& images_;
  PatchSide<T> rows_, columns_;
  T row_origin_, column_origin_;  // the first image's centre, for the lane's pair
};

// The warps' sums, one after another, in the first kPatchPairs threads; `memory` is free again
// after.
FASTMAML_DEVICE PairSums over_warps(const PairSums* memory) {
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
  int32_t across;
  constexpr explicit PatchTiles(int64_t patch)
      : across((static_cast<int32_t>(patch) + kPatchTile - 1) / kPatchTile) {}
  constexpr int32_t count() const { return across * (across + 1) / 2; }
  constexpr void place(int32_t tile, int32_t& row, int32_t& column) const {
    for (row = 0; tile >= across - row; ++row) tile -= across - row;
    column = row + tile;
  }
};

template <class T>
FASTMAML_DEVICE void run_pass(const DevicePatchArgs& args, const Block& block, int64_t task) {
  const PatchImages<T> images(args, block, task);
  const int32_t patch = images.taps * images.channels;
  const PatchTiles tiles(patch);
  Carve carve(block);
  auto* memory = carve.take<PairSums>(kWarps * kPatchPairs);
  const auto size = static_cast<int32_t>(block.size);
  for (auto tile = static_cast<int32_t>(block.rank); tile < tiles.count(); tile += size) {
    int32_t row, column;
    tiles.place(tile, row, column);
    row *= kPatchTile, column *= kPatchTile;
    PatchTile<T> own(args, images, row, column);
    own.sum(memory);
    const PairSums sums = over_warps(memory);
    const int32_t p = row + own.row_of_pair(), q = column + own.column_of_pair();
    if (threadIdx.x >= kPatchPairs || p > q || q >= patch) continue;
    auto* mean = reinterpret_cast<double*>(address<T>(block, args.out, task));
    double* cov = mean + patch;
    const auto places = static_cast<double>(args.images * args.places);
    if (p == q) mean[p] = sums.row / places + own.row_origin();
    cov[p * patch + q] = cov[q * patch + p] =
        sums.product / places - sums.row / places * (sums.column / places);
  }
}

inline int64_t units(const DevicePatchArgs& args) {
  return PatchTiles(args.taps * args.channels).count();
}

}  // namespace fastmaml::device
