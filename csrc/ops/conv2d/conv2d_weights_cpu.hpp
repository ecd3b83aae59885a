// The convolution's weights form on one core: MR rows of the weight, each a channel of a under a
// tap, x a panel of channels, summed over pixels.
//
// A tile's rows are channels of one tap, over all pixels that have it. Where a has too few channels
// to fill a tile, they are channels of several taps, over the pixels of one class.
#pragma once

#include "ops/conv2d/conv2d_problem_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// The pixels [begin, end) of every class, of the images of a problem: what stays in cache while all
// tiles of the weight go over it.
struct PixelBlock {
  int64_t begin, end;
};

// What a tile sums: the pixels of the classes that have `tap`, moved there; of all that are given,
// unmoved, where `tap` is kRowsHaveTaps.
constexpr int32_t kRowsHaveTaps = -1;
struct PixelSum {
  const PixelClass *classes, *classes_end;
  PixelBlock block;
  int32_t tap;
};

// Whether a class has the tap, and how far to move for it.
FASTMAML_INLINE bool find_tap(const PixelClass& pixels, int32_t index, int64_t& shift) {
  shift = 0;
  if (index == kRowsHaveTaps) return true;
  const Tap* tap = pixels.taps.data();
  const Tap* const end = tap + pixels.taps.size();
  while (tap != end && tap->index != index) ++tap;
  if (tap == end) return false;
  shift = tap->shift;
  return true;
}

template <class T, int MR, int NF, class Edge>
struct WeightTile {
  static constexpr int kThree = 3;
  // Column j of b and c; `cin` null: zero.
  static void run(const ConvProblem<T>& p, const PixelSum& over, const TileRows& rows, int64_t j,
                  int edge_lanes) {
    constexpr int W = kWidth<T>, kAtLeastOne = NF > 0 ? NF : 1;
    const Edge edge(edge_lanes);
    Fold<T, MR, NF, Edge> held;
    const T* folded = nullptr;
    int64_t room = kChain;
    TileSum<T, MR, NF, Edge> sum;
    sum.clear();
    for (int t = 0; t < p.terms; ++t)
      for (const PixelClass* pixels = over.classes; pixels != over.classes_end; ++pixels) {
        const auto pixel_count = static_cast<int64_t>(pixels->pixels.size());
        const int64_t stop = over.block.end < pixel_count ? over.block.end : pixel_count;
        int64_t shift;
        if (over.block.begin >= stop || !find_tap(*pixels, over.tap, shift)) continue;
        const T* a_image = p.a[t] + shift * p.a_pixel;
        const T* b_image = p.b[t] + j;
        for (int64_t r = 0; r < p.images; ++r, a_image += p.a_image, b_image += p.b_image) {
          const PixelPair* pair = pixels->pixels.data() + over.block.begin;
          for (int64_t left = stop - over.block.begin; left > 0;) {
            if (room == 0) fold(sum, held, folded, edge), room = kChain;
            const int64_t count = left < room ? left : room;
            for (const PixelPair* const end = pair + count; pair != end; ++pair) {
              const T* a = a_image + pair->from * p.a_pixel;
              const T* b = b_image + pair->to * p.b_pixel;
              Vec<T> bv[kAtLeastOne];
#pragma GCC unroll 8
              for (int v = 0; v < NF; ++v) bv[v] = load(b + v * W);
              const auto b_edge = edge.load(b + NF * W);
#pragma GCC unroll 8
              for (int e = 0; e < MR; ++e) {
                const Vec<T> av = splat(a[rows.from[e]]);
#pragma GCC unroll 8
                for (int v = 0; v < NF; ++v) sum.acc[e][v] += av * bv[v];
                if constexpr (Edge::kVectors > 0) sum.acc_edge[e] += Edge::part(av) * b_edge;
              }
            }
            left -= count, room -= count;
          }
        }
      }
    if (folded) sum.add(folded, held.kRow, edge);
    if (p.scale != T(1)) sum.scale(p.scale);
    write_rows(sum, rows, p.cin ? p.cin + j : nullptr, true, p.c + j, edge);
  }
};

// All tiles of the weight over one block of pixels, a tap at a time.
template <class T>
void weight_block(const ConvProblem<T>& p, const PixelBlock& block, const ConvPanels<T>& panels,
                  const Context& context) {
  const Heights heights(p.k, panels.tallest());
  const int64_t parts = heights.parts();
  const Stencil& stencil = *p.stencil;
  const PixelClass* const classes = stencil.classes.data();
  const Share share(context, panels.cut.parts * stencil.taps * parts);
  for (int64_t unit = share.begin; unit < share.end; ++unit) {
    const int64_t part = unit % parts, rest = unit / parts;
    const int64_t tap = rest % stencil.taps, panel = rest / stencil.taps;
    const int64_t i = heights.begin(part), count = heights.height(part);
    TileRows rows;
    for (int64_t e = 0; e < count; ++e)
      rows.from[e] = i + e, rows.to[e] = (tap * p.k + i + e) * p.n;
    const PixelSum over{classes, classes + stencil.classes.size(), block,
                        static_cast<int32_t>(tap)};
    const int64_t width = panels.width(panel);
    conv_tile_for<T, WeightTile>(count, width)(p, over, rows, panels.begin(panel),
                                               edge_lanes<T>(width));
  }
}

// The rows [begin, end) of the weight that a class has, over one block of its pixels.
template <class T>
void weight_class(const ConvProblem<T>& p, const PixelClass& pixels, const PixelBlock& block,
                  const ConvPanels<T>& panels, int64_t begin, int64_t end) {
  const PixelSum over{&pixels, &pixels + 1, block, kRowsHaveTaps};
  const int64_t tallest = panels.tallest();
  TileRows rows;
  int64_t count = 0;
  auto flush = [&] {
    const Heights heights(count, tallest);
    for (int64_t part = 0; part < heights.parts(); ++part) {
      TileRows tile;
      for (int64_t e = 0; e < heights.height(part); ++e)
        tile.from[e] = rows.from[heights.begin(part) + e],
        tile.to[e] = rows.to[heights.begin(part) + e];
      for (int64_t panel = 0; panel < panels.cut.parts; ++panel) {
        const int64_t width = panels.width(panel);
        conv_tile_for<T, WeightTile>(heights.height(part), width)(
            p, over, tile, panels.begin(panel), edge_lanes<T>(width));
      }
    }
    count = 0;
  };
  for (const Tap& tap : pixels.taps)
    for (int64_t i = 0; i < p.k; ++i) {
      const int64_t row = tap.index * p.k + i;
      if (row < begin || row >= end) continue;
      rows.from[count] = tap.shift * p.a_pixel + i, rows.to[count] = row * p.n;
      if (++count == tallest) flush();
    }
  flush();
}

// A block of images, or of one image's pixels, that leaves room for the weight in a second-level
// cache; where the weight itself has no room there, as many pixels as a panel of b has room. Blocks
// follow from the shapes alone, so that the order of the sum does too.
constexpr int64_t kBlockBytes = int64_t{192} << 10, kLargeWeightBytes = int64_t{2} << 20;
constexpr int64_t kLargeWeightPixels = 512;

struct PixelBlocks {
  int64_t images, pixels;  // of one block
};
template <class T>
PixelBlocks pixel_blocks(const ConvProblem<T>& p) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(T));
  const int64_t each = (p.a_image + p.b_image) * kBytes, pixels = p.stencil->to_pixels;
  if (p.stencil->taps * p.k * p.n * kBytes > kLargeWeightBytes) {
    const int64_t parts = (pixels + kLargeWeightPixels - 1) / kLargeWeightPixels;
    return {parts > 1 ? 1 : kLargeWeightPixels / pixels, (pixels + parts - 1) / parts};
  }
  const int64_t parts = (each + kBlockBytes - 1) / kBlockBytes;
  return {each < kBlockBytes ? kBlockBytes / each : 1, (pixels + parts - 1) / parts};
}

template <class T>
void conv_weights(const ConvProblem<T>& p, const ConvPanels<T>& panels, const Context& context) {
  const PixelBlocks blocks = pixel_blocks(p);
  const Stencil& stencil = *p.stencil;
  ConvProblem<T> part = p;
  const bool few = 2 * p.k <= panels.tallest();
  const Share mine(context, stencil.taps * p.k);
  if (few) {
    for (int64_t i = mine.begin * p.n; i < mine.end * p.n; ++i) p.c[i] = p.cin ? p.cin[i] : T(0);
    part.cin = p.c;
  }
  for (int64_t r = 0; r < p.images; r += blocks.images)
    for (int64_t begin = 0; begin < stencil.to_pixels; begin += blocks.pixels) {
      const PixelBlock block{begin, begin + blocks.pixels};
      part.images = p.images - r < blocks.images ? p.images - r : blocks.images;
      for (int t = 0; t < p.terms; ++t) {
        part.a[t] = p.a[t] + r * p.a_image;
        part.b[t] = p.b[t] + r * p.b_image;
      }
      if (few)
        for (const PixelClass& pixels : stencil.classes)
          weight_class(part, pixels, block, panels, mine.begin, mine.end);
      else
        weight_block(part, block, panels, context);
      part.cin = p.c;
    }
}

}  // namespace fastmaml::FASTMAML_ISA
