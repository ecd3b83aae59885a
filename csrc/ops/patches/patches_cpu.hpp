// patches on the CPU: blocks of patches laid out as rows, and their products summed in register
// tiles on and above the diagonal.
//
// A block's sums are of the plan's dtype, sums of blocks are double: a block is short enough that
// its roundings, which have either sign, vanish among the many blocks. Channels are taken relative
// to their mean in the first image, so that what is squared is no larger than it must be.
#pragma once

#include "ops/patches/patches_shift_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// Patches of one block, and the rows and vectors of a tile of products.
constexpr int64_t kPatchBlock = 32;
constexpr int kPatchRows = 6, kPatchVectors = kVectorBytes == 64 ? 4 : 2;

// What one thread sums: sum x[q], and sum x[p] x[q] in the rows of tiles [first, last).
template <class T>
struct PatchSums {
  static constexpr int W = kWidth<T>;
  int64_t patch, ld;  // ld: numbers between rows, with room for a whole tile past the last
  int64_t first, last;
  double *sums, *products;
  T *rows, *centre;

  PatchSums(int64_t size, const Context& context) : patch(size) {
    ld = (patch + kPatchRows + W - 1) / W * W;
    sums = reinterpret_cast<double*>(context.scratch), products = sums + ld;
    rows = reinterpret_cast<T*>(products + ld * ld), centre = rows + kPatchBlock * ld;
    for (int64_t i = 0; i < ld * (1 + ld); ++i) sums[i] = 0;
    for (int64_t i = 0; i < ld * (kPatchBlock + 1); ++i) rows[i] = 0;
    const Share share(context, (patch + kPatchRows - 1) / kPatchRows);
    first = share.begin, last = share.end;
  }

  // Adds the first `count` rows.
  void add(int64_t count) const {
    for (int64_t c = 0; c < ld; c += W) {
      Vec<T> total{};
      for (int64_t i = 0; i < count; ++i) total += load(rows + i * ld + c);
      for (int i = 0; i < W; ++i) sums[c + i] += static_cast<double>(total[i]);
    }
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t r = tile * kPatchRows;
      for (int64_t c = r / W * W; c < patch;) {
        const int64_t left = (patch - c + W - 1) / W;
        if (left >= kPatchVectors)
          add_tile<kPatchVectors>(r, c, count), c += kPatchVectors * W;
        else if (left >= 2)
          add_tile<2>(r, c, count), c += 2 * W;
        else
          add_tile<1>(r, c, count), c += W;
      }
    }
  }

  template <int V>
  void add_tile(int64_t r, int64_t c, int64_t count) const {
    Vec<T> acc[kPatchRows][V];
#pragma GCC unroll 8
    for (int e = 0; e < kPatchRows; ++e)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[e][v] = splat(T(0));
    const T *a = rows + r, *b = rows + c;
    for (int64_t i = 0; i < count; ++i, a += ld, b += ld) {
      Vec<T> bv[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) bv[v] = load(b + v * W);
#pragma GCC unroll 8
      for (int e = 0; e < kPatchRows; ++e) {
        const Vec<T> av = splat(a[e]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[e][v] += av * bv[v];
      }
    }
    double* to = products + r * ld + c;
#pragma GCC unroll 8
    for (int e = 0; e < kPatchRows; ++e)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        T part[W];
        store(part, acc[e][v]);
        for (int i = 0; i < W; ++i) to[e * ld + v * W + i] += static_cast<double>(part[i]);
      }
  }

  // mean and cov from the sums over `count` patches; each thread writes the pairs of its tiles.
  void write(double count, double* mean, double* cov) const {
    const int64_t begin = first * kPatchRows;
    const int64_t end = last * kPatchRows < patch ? last * kPatchRows : patch;
    for (int64_t p = begin; p < end; ++p) {
      mean[p] = sums[p] / count + static_cast<double>(centre[p]);
      for (int64_t q = p; q < patch; ++q)
        cov[p * patch + q] = cov[q * patch + p] =
            products[p * ld + q] / count - sums[p] / count * (sums[q] / count);
    }
  }
};

// to = from - centre.
template <class T>
FASTMAML_INLINE void copy_centred(const T* from, const T* centre, int64_t count, T* to) {
  int64_t i = 0;
  for (; i + kWidth<T> <= count; i += kWidth<T>) store(to + i, load(from + i) - load(centre + i));
  for (; i < count; ++i) to[i] = from[i] - centre[i];
}

// The mean of each channel of an image, over and over until `count` numbers are written.
template <class T>
void write_centre(const T* image, int64_t pixels, int64_t channels, int64_t count, T* centre) {
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0;
    for (int64_t i = 0; i < pixels; ++i) total += static_cast<double>(image[i * channels + c]);
    const T mean = static_cast<T>(total / static_cast<double>(pixels));
    for (int64_t p = c; p < count; p += channels) centre[p] = mean;
  }
}

// The patches of one image, class by class.
template <class T>
void add_patches(const PatchArgs& args, const T* image, const PatchSums<T>& sums) {
  const int64_t channels = args.channels;
  for (const PixelClass& pixels : args.stencil->classes) {
    const auto places = static_cast<int64_t>(pixels.pixels.size());
    const int64_t most = places < kPatchBlock ? places : kPatchBlock;
    // Taps outside the image are 0.
    for (int64_t i = 0; i < most; ++i)
      for (int64_t p = 0; p < sums.patch; ++p) sums.rows[i * sums.ld + p] = -sums.centre[p];
    for (int64_t begin = 0; begin < places; begin += kPatchBlock) {
      const int64_t count = places - begin < kPatchBlock ? places - begin : kPatchBlock;
      for (int64_t i = 0; i < count; ++i) {
        const T* from = image + pixels.pixels[begin + i].from * channels;
        T* row = sums.rows + i * sums.ld;
        for (const Tap& taps : pixels.stretches) {
          const int64_t p = taps.index * channels;
          copy_centred(from + taps.shift * channels, sums.centre + p, taps.count * channels,
                       row + p);
        }
      }
      sums.add(count);
    }
  }
}

template <class T>
void run_kernel(const PatchArgs& args, const Context& context) {
  const Stencil& stencil = *args.stencil;
  const int64_t patch = stencil.taps * args.channels;
  const int64_t image = stencil.from_pixels * args.channels;
  const auto places = static_cast<double>(args.images * stencil.to_pixels);
  const ShiftSums<T> shifted(args, context.scratch);
  const bool by_shift = shifted.fits();
  if (by_shift && context.rank > 0) return;  // too little to share
  for (int64_t task = 0; task < context.tasks; ++task) {
    const T* x = address<T>(context, args.x, task);
    auto* mean = reinterpret_cast<double*>(address<T>(context, args.out, task));
    if (by_shift) {
      shifted.clear();
      write_centre(x, stencil.from_pixels, args.channels, shifted.row, shifted.centre);
      for (int64_t r = 0; r < args.images; ++r) shifted.add(x + r * image);
      shifted.write(places, mean, mean + patch);
    } else {
      const PatchSums<T> sums(patch, context);
      write_centre(x, stencil.from_pixels, args.channels, patch, sums.centre);
      for (int64_t r = 0; r < args.images; ++r) add_patches(args, x + r * image, sums);
      sums.write(places, mean, mean + patch);
    }
  }
}

}  // namespace fastmaml::FASTMAML_ISA
