// The convolution on one core: register tiles whose rows are found through the stencil.
//
// images form: MR pixels of one class x a panel of channels, over all taps of the class. weights
// form: MR channels of a x a panel of channels of one tap, over all pixels that have the tap. Both
// sum in an order that does not depend on the tile or the thread.
#pragma once

#include "ops/contract/contract_tile_cpu.hpp"
#include "ops/conv2d/conv2d.hpp"

namespace fastmaml::FASTMAML_ISA {

constexpr int kMostConvTerms = 4;

// One task and one group of channels.
template <class T>
struct ConvProblem {
  const T *a[kMostConvTerms], *b[kMostConvTerms];
  int terms;
  int64_t a_pixel, a_image;  // elements between pixels, between images
  int64_t b_pixel, b_image;  // weights form
  int64_t k, n, images;
  T* c;
  const T* cin;
  int64_t c_row, cin_row;  // elements between c's pixels (images) or channels of a (weights)
  int64_t c_image;
  T scale;
  Gate gate;
  const T* gate_by;  // laid out as c
};

// Chains of multiply-adds, folded into a second accumulator when they grow long (see kChain). It
// lies apart from the first, which would otherwise leave the registers.
template <class T, int MR, int NF, class Edge>
struct Fold {
  static constexpr int64_t kRow = (NF + Edge::kVectors) * kWidth<T>;
  T held[MR * kRow];
};

template <class T, int MR, int NF, class Edge>
FASTMAML_INLINE void fold(TileSum<T, MR, NF, Edge>& sum, Fold<T, MR, NF, Edge>& to,
                          const T*& folded, const Edge& edge) {
  if (folded) sum.add(folded, to.kRow, edge);
  sum.store_to(to.held, to.kRow, edge);
  sum.clear();
  folded = to.held;
}

// --- images ------------------------------------------------------------------------------------

// The rows of one tile: where each pixel's first source lies in a, and the pixel in c.
struct ConvRows {
  int64_t from[kMostRows], to[kMostRows];
};

// c = cin + sum, through the gate.
template <class T, int MR, int NF, class Edge>
FASTMAML_INLINE void write_pixels(const ConvProblem<T>& p, const ConvRows& rows, int64_t j,
                                  const Edge& edge, const TileSum<T, MR, NF, Edge>& sum) {
  constexpr int W = kWidth<T>;
  constexpr bool kEdge = Edge::kVectors > 0;
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    const int64_t at = rows.to[r] + j;
    const T* from = p.cin ? p.cin + (p.cin_row ? rows.to[r] : 0) + j : nullptr;
    const T* by = p.gate == Gate::operand ? p.gate_by + at : nullptr;
#pragma GCC unroll 8
    for (int v = 0; v < NF; ++v) {
      Vec<T> value = sum.acc[r][v];
      if (from) value = load(from + v * W) + value;
      if (p.gate != Gate::open)
        value = gated<Vec<T>, T>(p.gate, value, by ? load(by + v * W) : value);
      store(p.c + at + v * W, value);
    }
    if constexpr (kEdge) {
      auto value = sum.acc_edge[r];
      if (from) value = edge.load(from + NF * W) + value;
      if (p.gate != Gate::open)
        value = gated<decltype(value), T>(p.gate, value, by ? edge.load(by + NF * W) : value);
      edge.store(p.c + at + NF * W, value);
    }
  }
}

template <class T, int MR, int NF, class Edge>
void image_tile(const ConvProblem<T>& p, const PixelClass& pixels, const ConvRows& rows, int64_t j,
                int edge_lanes) {
  constexpr int W = kWidth<T>, kAtLeastOne = NF > 0 ? NF : 1;
  constexpr bool kEdge = Edge::kVectors > 0;
  const Edge edge(edge_lanes);
  Fold<T, MR, NF, Edge> held;
  const T* folded = nullptr;
  int64_t room = kChain;
  TileSum<T, MR, NF, Edge> sum;
  sum.clear();
  const Tap* const taps_end = pixels.taps.data() + pixels.taps.size();
  for (int t = 0; t < p.terms; ++t)
    for (const Tap* tap = pixels.taps.data(); tap != taps_end; ++tap) {
      const T* a[MR];
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) a[r] = p.a[t] + rows.from[r] + tap->shift * p.a_pixel;
      const T* b = p.b[t] + tap->index * p.k * p.n + j;
      for (int64_t left = p.k; left > 0;) {
        if (room == 0) fold(sum, held, folded, edge), room = kChain;
        const int64_t count = left < room ? left : room;
        for (int64_t l = 0; l < count; ++l, b += p.n) {
          Vec<T> bv[kAtLeastOne];
#pragma GCC unroll 8
          for (int v = 0; v < NF; ++v) bv[v] = load(b + v * W);
          const auto b_edge = edge.load(b + NF * W);
#pragma GCC unroll 8
          for (int r = 0; r < MR; ++r) {
            const Vec<T> av = splat(a[r][l]);
#pragma GCC unroll 8
            for (int v = 0; v < NF; ++v) sum.acc[r][v] += av * bv[v];
            if constexpr (kEdge) sum.acc_edge[r] += Edge::part(av) * b_edge;
          }
        }
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) a[r] += count;
        left -= count, room -= count;
      }
    }
  if (folded) sum.add(folded, held.kRow, edge);
  write_pixels<T, MR, NF, Edge>(p, rows, j, edge, sum);
}

// --- weights -----------------------------------------------------------------------------------

// The pixels [begin, end) of every class, of the images of a problem: what stays in cache while all
// tiles of the weight go over it.
struct PixelBlock {
  int64_t begin, end;
};

// The tap's pixels of a class that lie in the block; null when there are none.
FASTMAML_INLINE const Tap* find_tap(const PixelClass& pixels, int32_t index) {
  const Tap* tap = pixels.taps.data();
  const Tap* const end = tap + pixels.taps.size();
  while (tap != end && tap->index != index) ++tap;
  return tap == end ? nullptr : tap;
}

template <class T, int MR, int NF, class Edge>
void weight_tile(const ConvProblem<T>& p, const Stencil& stencil, const PixelBlock& block,
                 int32_t index, int64_t i, int64_t j, int edge_lanes) {
  constexpr int W = kWidth<T>, kAtLeastOne = NF > 0 ? NF : 1;
  constexpr bool kEdge = Edge::kVectors > 0;
  const Edge edge(edge_lanes);
  Fold<T, MR, NF, Edge> held;
  const T* folded = nullptr;
  int64_t room = kChain;
  TileSum<T, MR, NF, Edge> sum;
  sum.clear();
  for (int t = 0; t < p.terms; ++t)
    for (const PixelClass& pixels : stencil.classes) {
      const auto pixel_count = static_cast<int64_t>(pixels.pixels.size());
      const int64_t stop = block.end < pixel_count ? block.end : pixel_count;
      const Tap* const tap = find_tap(pixels, index);
      if (!tap || block.begin >= stop) continue;
      const T* a_image = p.a[t] + tap->shift * p.a_pixel + i;
      const T* b_image = p.b[t] + j;
      for (int64_t r = 0; r < p.images; ++r, a_image += p.a_image, b_image += p.b_image) {
        const PixelPair* pair = pixels.pixels.data() + block.begin;
        for (int64_t left = stop - block.begin; left > 0;) {
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
              const Vec<T> av = splat(a[e]);
#pragma GCC unroll 8
              for (int v = 0; v < NF; ++v) sum.acc[e][v] += av * bv[v];
              if constexpr (kEdge) sum.acc_edge[e] += Edge::part(av) * b_edge;
            }
          }
          left -= count, room -= count;
        }
      }
    }
  if (folded) sum.add(folded, held.kRow, edge);
  const int64_t at = (index * p.k + i) * p.n + j;
  if (p.scale != T(1)) sum.scale(p.scale);
  if (p.cin) sum.add(p.cin + at, p.n, edge);
  sum.store_to(p.c + at, p.n, edge);
}

// --- which tile --------------------------------------------------------------------------------

template <class T>
using ImageTile = void (*)(const ConvProblem<T>&, const PixelClass&, const ConvRows&, int64_t, int);
template <class T>
using WeightTile = void (*)(const ConvProblem<T>&, const Stencil&, const PixelBlock&, int32_t,
                            int64_t, int64_t, int);

template <class T>
struct ConvTiles {
  ImageTile<T> image;
  WeightTile<T> weight;
};

// The tiles of `rows` rows x `width` columns.
template <class T, int NF, class Edge>
FASTMAML_INLINE ConvTiles<T> conv_rows(int rows) {
  constexpr int kSeven = row_tile(NF + Edge::kVectors) < 8 ? 6 : 7;
  constexpr int kEight = row_tile(NF + Edge::kVectors) < 8 ? 6 : 8;
  static constexpr ConvTiles<T> table[kMostRows] = {
      {image_tile<T, 1, NF, Edge>, weight_tile<T, 1, NF, Edge>},
      {image_tile<T, 2, NF, Edge>, weight_tile<T, 2, NF, Edge>},
      {image_tile<T, 3, NF, Edge>, weight_tile<T, 3, NF, Edge>},
      {image_tile<T, 4, NF, Edge>, weight_tile<T, 4, NF, Edge>},
      {image_tile<T, 5, NF, Edge>, weight_tile<T, 5, NF, Edge>},
      {image_tile<T, 6, NF, Edge>, weight_tile<T, 6, NF, Edge>},
      {image_tile<T, kSeven, NF, Edge>, weight_tile<T, kSeven, NF, Edge>},
      {image_tile<T, kEight, NF, Edge>, weight_tile<T, kEight, NF, Edge>}};
  return table[rows - 1];
}

template <class T, int NF>
FASTMAML_INLINE ConvTiles<T> conv_edge(int rows, int edge_lanes) {
  if (kHasHalf && edge_lanes <= kWidth<T> / 2) return conv_rows<T, NF, HalfEdge<T>>(rows);
  return conv_rows<T, NF, MaskedEdge<T>>(rows);
}

template <class T>
FASTMAML_INLINE ConvTiles<T> conv_tiles_for(int rows, int64_t width) {
  const int whole = static_cast<int>(width / kWidth<T>), rest = static_cast<int>(width % kWidth<T>);
  if constexpr (kVectorTile == 4) {
    if (whole == 4) return conv_rows<T, 4, NoEdge<T>>(rows);
    if (whole == 3 && rest) return conv_edge<T, 3>(rows, rest);
    if (whole == 3) return conv_rows<T, 3, NoEdge<T>>(rows);
    if (whole == 2 && rest) return conv_edge<T, 2>(rows, rest);
  }
  if (whole == 2) return conv_rows<T, 2, NoEdge<T>>(rows);
  if (whole == 1 && rest) return conv_edge<T, 1>(rows, rest);
  if (whole == 1) return conv_rows<T, 1, NoEdge<T>>(rows);
  return conv_edge<T, 0>(rows, rest);
}

// --- one problem -------------------------------------------------------------------------------

// The panels of columns, and the widest panel's row tile.
template <class T>
struct ConvPanels {
  Cut cut;
  int64_t n, tallest;
  explicit ConvPanels(int64_t columns)
      : cut((columns + kWidth<T> - 1) / kWidth<T>, kVectorTile),
        n(columns),
        tallest(row_tile(cut.size + (cut.larger > 0))) {}
  int64_t begin(int64_t panel) const { return cut.begin(panel) * kWidth<T>; }
  int64_t width(int64_t panel) const {
    const int64_t stop = begin(panel + 1);
    return (stop < n ? stop : n) - begin(panel);
  }
};

template <class T>
void image_class(const ConvProblem<T>& p, const PixelClass& pixels, const ConvPanels<T>& panels,
                 const Context& context) {
  const int64_t each = static_cast<int64_t>(pixels.pixels.size());
  const Cut rows(each * p.images, panels.tallest);
  const Share share(context, rows.parts);
  int64_t at = rows.begin(share.begin);
  int64_t image = at / each, pixel = at - image * each;
  for (int64_t unit = share.begin; unit < share.end; ++unit) {
    const int64_t count = rows.begin(unit + 1) - rows.begin(unit);
    ConvRows place;
    for (int64_t r = 0; r < count; ++r) {
      const PixelPair& pair = pixels.pixels[static_cast<size_t>(pixel)];
      place.from[r] = image * p.a_image + pair.from * p.a_pixel;
      place.to[r] = image * p.c_image + pair.to * p.c_row;
      if (++pixel == each) pixel = 0, ++image;
    }
    for (int64_t panel = 0; panel < panels.cut.parts; ++panel) {
      const int64_t width = panels.width(panel);
      conv_tiles_for<T>(static_cast<int>(count), width)
          .image(p, pixels, place, panels.begin(panel), static_cast<int>(width % kWidth<T>));
    }
  }
}

// All tiles of the weight over one block of pixels.
template <class T>
void weight_block(const ConvProblem<T>& p, const Stencil& stencil, const PixelBlock& block,
                  const ConvPanels<T>& panels, const Context& context) {
  const Cut rows(p.k, panels.tallest);
  const Share share(context, stencil.taps * rows.parts * panels.cut.parts);
  for (int64_t unit = share.begin; unit < share.end; ++unit) {
    const int64_t panel = unit % panels.cut.parts, rest = unit / panels.cut.parts;
    const int64_t r = rest % rows.parts, tap = rest / rows.parts;
    const int64_t i = rows.begin(r), width = panels.width(panel);
    conv_tiles_for<T>(static_cast<int>(rows.begin(r + 1) - i), width)
        .weight(p, stencil, block, static_cast<int32_t>(tap), i, panels.begin(panel),
                static_cast<int>(width % kWidth<T>));
  }
}

// A block of images, or of one image's pixels, that leaves room for the weight in a second-level
// cache. Blocks follow from the shapes alone, so that the order of the sum does too.
constexpr int64_t kBlockBytes = int64_t{192} << 10;

template <class T>
void conv_weights(const ConvProblem<T>& p, const Stencil& stencil, const ConvPanels<T>& panels,
                  const Context& context) {
  const int64_t each = (p.a_image + p.b_image) * static_cast<int64_t>(sizeof(T));
  const int64_t images = each < kBlockBytes ? kBlockBytes / each : 1;
  const int64_t parts = (each + kBlockBytes - 1) / kBlockBytes;
  const int64_t pixels = (stencil.to_pixels + parts - 1) / parts;
  ConvProblem<T> part = p;
  for (int64_t r = 0; r < p.images; r += images)
    for (int64_t begin = 0; begin < stencil.to_pixels; begin += pixels) {
      part.images = p.images - r < images ? p.images - r : images;
      for (int t = 0; t < p.terms; ++t) {
        part.a[t] = p.a[t] + r * p.a_image;
        part.b[t] = p.b[t] + r * p.b_image;
      }
      weight_block(part, stencil, {begin, begin + pixels}, panels, context);
      part.cin = p.c;
    }
}

template <class T>
ConvProblem<T> conv_problem(const ConvArgs& args, const Context& context, int64_t task,
                            int64_t group) {
  const Stencil& stencil = *args.stencil;
  const int64_t k = args.k, n = args.n, weights = stencil.taps * k * n;
  ConvProblem<T> p;
  p.terms = static_cast<int>(args.terms.size());
  for (int t = 0; t < p.terms; ++t) {
    p.a[t] = address<T>(context, args.terms[t].a, task) + group * k;
    p.b[t] =
        address<T>(context, args.terms[t].b, task) + (args.weights ? group * n : group * weights);
  }
  p.k = k, p.n = n, p.images = args.images;
  p.a_pixel = args.groups * k, p.a_image = stencil.from_pixels * p.a_pixel;
  p.b_pixel = args.groups * n, p.b_image = stencil.to_pixels * p.b_pixel;
  const int64_t shift = args.weights ? group * weights : group * n;
  p.c = address<T>(context, args.c, task) + shift;
  p.cin = args.cin ? address<T>(context, args.cin, task) + shift : nullptr;
  p.gate = args.gate;
  p.gate_by = args.gate_by ? address<T>(context, args.gate_by, task) + shift : nullptr;
  p.c_row = args.groups * n, p.c_image = stencil.to_pixels * p.c_row;
  p.cin_row = args.cin_row ? 0 : p.c_row;
  p.scale = static_cast<const T*>(context.scalars)[args.scale];
  return p;
}

template <class T>
void run_kernel(const ConvArgs& args, const Context& context) {
  const ConvPanels<T> panels(args.n);
  for (int64_t task = 0; task < context.tasks; ++task)
    for (int64_t group = 0; group < args.groups; ++group) {
      const ConvProblem<T> p = conv_problem<T>(args, context, task, group);
      if (args.weights) {
        conv_weights(p, *args.stencil, panels, context);
        continue;
      }
      for (const PixelClass& pixels : args.stencil->classes)
        image_class(p, pixels, panels, context);
    }
}

}  // namespace fastmaml::FASTMAML_ISA
