// patches on the CPU: blocks of patches laid out as rows, and their products summed in register
// tiles on and above the diagonal.
//
// A block's sums are of the plan's dtype, sums of blocks are double: a block is short enough that
// its roundings, which have either sign, vanish among the many blocks.
#pragma once

#include "ops/patches/patches_centre_cpu.hpp"
#include "ops/patches/patches_shift_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// Patches of one block, and the rows and vectors of a tile of products.
constexpr int64_t kPatchBlock = 32;
constexpr int kPatchRows = 6, kPatchVectors = kVectorBytes == 64 ? 4 : 2;

// What one thread sums: sum y[q] of an image, sum x[q] of all, and sum x[p] x[q] of its
// pairs.
template <class T>
struct PatchSums {
  static constexpr int W = kWidth<T>;
  int64_t patch, ld;    // ld: numbers between rows, with room for a whole tile past the last
  int64_t first, last;  // rows of this thread's tiles
  double *sums, *totals, *products;
  T *rows, *centre;
  Recentre offset;

  PatchSums(int64_t size, const PatchArgs& args, const Context& context)
      : patch(size),
        offset{size, args.channels, static_cast<double>(args.stencil->to_pixels), {}, {}} {
    ld = (patch + kPatchRows + W - 1) / W * W;
    sums = reinterpret_cast<double*>(context.scratch), totals = sums + ld;
    products = totals + ld;
    rows = reinterpret_cast<T*>(products + ld * ld), centre = rows + kPatchBlock * ld;
    for (int64_t i = 0; i < ld * (2 + ld); ++i) sums[i] = 0;
    for (int64_t i = 0; i < ld * (kPatchBlock + 1); ++i) rows[i] = 0;
    const Share share(context, (patch + kPatchRows - 1) / kPatchRows);
    first = share.begin * kPatchRows;
    last = share.end * kPatchRows < patch ? share.end * kPatchRows : patch;
  }

  // Before an image's patches: all are taken relative to its channels' means.
  void begin(const PatchArgs& args, const T* image, bool is_first) {
    write_centre(image, args.stencil->from_pixels, args.channels, patch, centre);
    offset.next(centre, is_first);
    for (int64_t i = 0; i < ld; ++i) sums[i] = 0;
  }
  // After them.
  void end() const {
    offset.add_sums(sums, totals);
    for (int64_t p = first; p < last; ++p) offset.add_products(p, sums, products + p * ld);
  }

  // Adds the first `count` rows.
  void add(int64_t count) const {
    for (int64_t c = 0; c < ld; c += W) {
      Vec<T> total{};
      for (int64_t i = 0; i < count; ++i) total += load(rows + i * ld + c);
      for (int i = 0; i < W; ++i) sums[c + i] += static_cast<double>(total[i]);
    }
    for (int64_t r = first; r < last; r += kPatchRows) {
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
    for (int64_t p = first; p < last; ++p) {
      mean[p] = totals[p] / count + offset.origin[p];
      for (int64_t q = p; q < patch; ++q)
        cov[p * patch + q] = cov[q * patch + p] =
            products[p * ld + q] / count - totals[p] / count * (totals[q] / count);
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
      shifted.sum(x, args.images, mean, mean + patch);
    } else {
      PatchSums<T> sums(patch, args, context);
      for (int64_t r = 0; r < args.images; ++r) {
        sums.begin(args, x + r * image, r == 0);
        add_patches(args, x + r * image, sums);
        sums.end();
      }
      sums.write(places, mean, mean + patch);
    }
  }
}

}  // namespace fastmaml::FASTMAML_ISA
