// The convolution's images form on one core: MR pixels of one class x a panel of channels, over the
// taps of the class.
//
// Weights that outgrow a second-level cache are taken in runs of taps, each packed once and used by
// all pixels before the next; c then holds the sum so far.
//
// Where moments of c are wanted, threads take whole groups of its rows, and make the rows of some
// groups and then their moments, while they lie in a cache.
#pragma once

#include "ops/conv2d/conv2d_problem_cpu.hpp"
#include "ops/moments/moments_rows_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// What the tiles of a class and a panel sum, and where it goes.
template <class T>
struct ImageSum {
  const T *a[kMostConvTerms], *b[kMostConvTerms];  // b: column 0 of the panel
  int terms;
  const Tap *taps, *taps_end;
  int64_t a_pixel, k, b_row, b_tap;  // elements between rows of b, between its taps
  const T* cin;
  bool cin_rows;  // cin has a row for each pixel
  T* c;
};

template <class T, int MR, int NF, class Edge>
struct ImageTile {
  static constexpr int kThree = 4;  // a height that does not exist is rounded up
  static void run(const ImageSum<T>& p, const TileRows& rows, int edge_lanes) {
    constexpr int W = kWidth<T>, kAtLeastOne = NF > 0 ? NF : 1;
    const Edge edge(edge_lanes);
    Fold<T, MR, NF, Edge> held;
    const T* folded = nullptr;
    int64_t room = kChain;
    TileSum<T, MR, NF, Edge> sum;
    sum.clear();
    for (int t = 0; t < p.terms; ++t)
      for (const Tap* tap = p.taps; tap != p.taps_end; ++tap) {
        const T* a[MR];
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) a[r] = p.a[t] + rows.from[r] + tap->shift * p.a_pixel;
        const T* b = p.b[t] + tap->index * p.b_tap;
        for (int64_t left = tap->count * p.k; left > 0;) {
          if (room == 0) fold(sum, held, folded, edge), room = kChain;
          const int64_t count = left < room ? left : room;
          for (int64_t l = 0; l < count; ++l, b += p.b_row) {
            Vec<T> bv[kAtLeastOne];
#pragma GCC unroll 8
            for (int v = 0; v < NF; ++v) bv[v] = load(b + v * W);
            const auto b_edge = edge.load(b + NF * W);
#pragma GCC unroll 8
            for (int r = 0; r < MR; ++r) {
              const Vec<T> av = splat(a[r][l]);
#pragma GCC unroll 8
              for (int v = 0; v < NF; ++v) sum.acc[r][v] += av * bv[v];
              if constexpr (Edge::kVectors > 0) sum.acc_edge[r] += Edge::part(av) * b_edge;
            }
          }
#pragma GCC unroll 8
          for (int r = 0; r < MR; ++r) a[r] += count;
          left -= count, room -= count;
        }
      }
    if (folded) sum.add(folded, held.kRow, edge);
    write_rows(sum, rows, p.cin, p.cin_rows, p.c, edge);
  }
};

// Pixels [begin, end) of a class, counted over all images.
struct ClassPart {
  int64_t begin, end;
};

// This thread's, in whole tiles.
inline ClassPart class_share(const PixelClass& pixels, int64_t images, int64_t tallest,
                             const Context& context) {
  const int64_t total = static_cast<int64_t>(pixels.pixels.size()) * images;
  const Share share(context, (total + tallest - 1) / tallest);
  return {share.begin * tallest, share.end * tallest < total ? share.end * tallest : total};
}

// How many of a class lie before row `row` of c.
inline int64_t class_before(const PixelClass& pixels, int64_t to_pixels, int64_t row) {
  const int64_t each = static_cast<int64_t>(pixels.pixels.size()), image = row / to_pixels;
  int64_t low = 0, high = each;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (pixels.pixels[static_cast<size_t>(middle)].to < row - image * to_pixels)
      low = middle + 1;
    else
      high = middle;
  }
  return image * each + low;
}

// Those of the moments' groups [begin, end).
template <class T>
ClassPart class_part(const ConvProblem<T>& p, const PixelClass& pixels, int64_t begin,
                     int64_t end) {
  const int64_t to_pixels = p.stencil->to_pixels;
  return {class_before(pixels, to_pixels, p.moment_groups.before(begin)),
          class_before(pixels, to_pixels, p.moment_groups.before(end))};
}

// A part of a class in tiles of the panels [begin, end).
template <class T>
void image_tiles(const ConvProblem<T>& p, const ImageSum<T>& sum, const PixelClass& pixels,
                 const ConvPanels<T>& panels, int64_t begin, int64_t end, const ClassPart& part) {
  const int64_t each = static_cast<int64_t>(pixels.pixels.size());
  const int64_t tallest = panels.tallest();
  int64_t image = part.begin / each, pixel = part.begin - image * each;
  for (int64_t at = part.begin; at < part.end; at += tallest) {
    const int64_t count = part.end - at < tallest ? part.end - at : tallest;
    TileRows rows;
    for (int64_t r = 0; r < count; ++r) {
      const PixelPair& pair = pixels.pixels[static_cast<size_t>(pixel)];
      rows.from[r] = image * p.a_image + pair.from * p.a_pixel;
      rows.to[r] = image * p.c_image + pair.to * p.c_row;
      if (++pixel == each) pixel = 0, ++image;
    }
    // The tile may be higher than what is left: it then computes a pixel several times.
    for (int64_t r = count; r < kMostRows; ++r)
      rows.from[r] = rows.from[0], rows.to[r] = rows.to[0];
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t j = panels.begin(panel) - panels.begin(begin), width = panels.width(panel);
      ImageSum<T> of_panel = sum;
      for (int t = 0; t < p.terms; ++t) of_panel.b[t] += j;
      if (of_panel.cin) of_panel.cin += j;
      of_panel.c += j;
      conv_tile_for<T, ImageTile>(count, width)(of_panel, rows, edge_lanes<T>(width));
    }
  }
}

template <class T>
ImageSum<T> image_sum(const ConvProblem<T>& p) {
  ImageSum<T> sum;
  sum.terms = p.terms;
  for (int t = 0; t < p.terms; ++t) sum.a[t] = p.a[t], sum.b[t] = p.b[t];
  sum.a_pixel = p.a_pixel, sum.k = p.k, sum.b_row = p.n, sum.b_tap = p.k * p.n;
  sum.cin = p.cin, sum.cin_rows = p.cin_row != 0, sum.c = p.c;
  return sum;
}

template <class T>
void set_taps(const ConvProblem<T>& p, const PixelClass& pixels, ImageSum<T>& sum) {
  const std::vector<Tap>& taps = p.a_pixel == p.k ? pixels.stretches : pixels.taps;
  sum.taps = taps.data(), sum.taps_end = sum.taps + taps.size();
}

// The moments of the groups [begin, end) and the columns [j, j + width).
template <class T>
void group_moments(const ConvProblem<T>& p, int64_t begin, int64_t end, int64_t j, int64_t width) {
  for (int64_t g = begin; g < end; ++g)
    write_moments(p.c + p.moment_groups.before(g) * p.c_row + j, p.c_row,
                  p.moment_groups.rows_of(g), p.moments + 2 * g * p.c_row + j, p.c_row, width);
}

// What of a panel's weights is packed and used at a time, and from where on they are.
constexpr int64_t kTapRunBytes = int64_t{256} << 10, kPackFromBytes = int64_t{512} << 10;
static_assert(kTapRunBytes <= int64_t{kScratchBytes});

// The taps [begin, end) of one term.
struct TapRun {
  int term;
  int32_t begin, end;
};

// One run of taps over the pixels of a class; c holds the sum of earlier runs.
template <class T>
void image_tap_run(const ConvProblem<T>& p, const PixelClass& pixels, const TapRun& run,
                   ImageSum<T> sum, const ConvPanels<T>& panels, int64_t panel,
                   const ClassPart& part) {
  const Tap *const first = pixels.taps.data(), *const last = first + pixels.taps.size();
  sum.taps = first;
  while (sum.taps != last && sum.taps->index < run.begin) ++sum.taps;
  sum.taps_end = sum.taps;
  while (sum.taps_end != last && sum.taps_end->index < run.end) ++sum.taps_end;
  const bool earlier = run.term > 0 || sum.taps != first;
  // A class without any tap still gets what c starts from.
  if (sum.taps == sum.taps_end && !(first == last && run.term == 0 && run.begin == 0)) return;
  if (earlier) sum.cin = sum.c, sum.cin_rows = true;
  image_tiles(p, sum, pixels, panels, panel, panel + 1, part);
}

template <class T>
void conv_images_packed(const ConvProblem<T>& p, const ConvPanels<T>& panels,
                        const Context& context) {
  // Threads take panels where there are enough, so that each packs its own.
  const bool by_panel = panels.cut.parts >= 4 * context.size;
  const Share mine(context, by_panel ? panels.cut.parts : 1);
  const int64_t begin = by_panel ? mine.begin : 0, end = by_panel ? mine.end : panels.cut.parts;
  const Context alone;
  const Context& by_rows = by_panel ? alone : context;
  const Share groups(by_rows, p.moments ? p.moment_groups.count() : 0);
  T* const packed = reinterpret_cast<T*>(context.scratch);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t j = panels.begin(panel), width = panels.width(panel);
    const int64_t tap_bytes = p.k * width * static_cast<int64_t>(sizeof(T));
    const int64_t taps = tap_bytes < kTapRunBytes ? kTapRunBytes / tap_bytes : 1;
    const bool fits = tap_bytes <= kTapRunBytes;
    for (int t = 0; t < p.terms; ++t)
      for (int64_t tap = 0; tap < p.stencil->taps; tap += taps) {
        const int64_t stop = tap + taps < p.stencil->taps ? tap + taps : p.stencil->taps;
        ImageSum<T> sum = image_sum(p);
        sum.terms = 1, sum.a[0] = p.a[t], sum.b[0] = p.b[t] + j;
        if (sum.cin) sum.cin += j;
        sum.c += j;
        if (fits) {
          Segment<T> segment{nullptr, 0, 0, p.b[t] + tap * sum.b_tap, p.n, 1, (stop - tap) * p.k};
          pack_panel(&segment, 1, j, width, packed);
          sum.b_row = width, sum.b_tap = p.k * width;
          sum.b[0] = packed - tap * sum.b_tap;
        }
        const TapRun run{t, static_cast<int32_t>(tap), static_cast<int32_t>(stop)};
        for (const PixelClass& pixels : p.stencil->classes) {
          const ClassPart part = p.moments
                                     ? class_part(p, pixels, groups.begin, groups.end)
                                     : class_share(pixels, p.images, panels.tallest(), by_rows);
          image_tap_run(p, pixels, run, sum, panels, panel, part);
        }
      }
    group_moments(p, groups.begin, groups.end, j, width);
  }
}

// What of c is made before its moments are.
constexpr int64_t kMomentRunBytes = int64_t{128} << 10;

template <class T>
void conv_images_with_moments(const ConvProblem<T>& p, ImageSum<T> sum, const ConvPanels<T>& panels,
                              const Context& context) {
  const MomentGroups& groups = p.moment_groups;
  const Share mine(context, groups.count());
  const int64_t group_bytes = groups.before(1) * p.c_row * int64_t{sizeof(T)};
  const int64_t run = group_bytes < kMomentRunBytes ? kMomentRunBytes / group_bytes : 1;
  for (int64_t begin = mine.begin; begin < mine.end; begin += run) {
    const int64_t end = begin + run < mine.end ? begin + run : mine.end;
    for (const PixelClass& pixels : p.stencil->classes) {
      set_taps(p, pixels, sum);
      image_tiles(p, sum, pixels, panels, 0, panels.cut.parts, class_part(p, pixels, begin, end));
    }
    group_moments(p, begin, end, 0, p.n);
  }
}

template <class T>
void conv_images(const ConvProblem<T>& p, const ConvPanels<T>& panels, const Context& context) {
  const int64_t panel_bytes =
      p.terms * p.stencil->taps * p.k * panels.width(0) * int64_t{sizeof(T)};
  if (panel_bytes > kPackFromBytes) return conv_images_packed(p, panels, context);
  ImageSum<T> sum = image_sum(p);
  if (p.moments) return conv_images_with_moments(p, sum, panels, context);
  for (const PixelClass& pixels : p.stencil->classes) {
    set_taps(p, pixels, sum);
    image_tiles(p, sum, pixels, panels, 0, panels.cut.parts,
                class_share(pixels, p.images, panels.tallest(), context));
  }
}

}  // namespace fastmaml::FASTMAML_ISA
