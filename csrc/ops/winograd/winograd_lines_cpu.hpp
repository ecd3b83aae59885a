// Winograd's transforms on one core: tiles of pixels and taps of weights to matrices in scratch.
#pragma once

#include "cpu/context.hpp"
#include "ops/winograd/winograd_places_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// Both dimensions: in(i) of [kIn, kIn] -> out(i, value) of [kOut, kOut].
template <class Line, class V, class In, class Out>
FASTMAML_INLINE void transform(In&& in, Out&& out) {
  V half[Line::kOut][Line::kIn];
#pragma GCC unroll 7
  for (int x = 0; x < Line::kIn; ++x) {
    V column[Line::kIn], made[Line::kOut];
#pragma GCC unroll 7
    for (int y = 0; y < Line::kIn; ++y) column[y] = in(y * Line::kIn + x);
    Line::run(column, made);
#pragma GCC unroll 7
    for (int y = 0; y < Line::kOut; ++y) half[y][x] = made[y];
  }
#pragma GCC unroll 7
  for (int y = 0; y < Line::kOut; ++y) {
    V made[Line::kOut];
    Line::run(half[y], made);
#pragma GCC unroll 7
    for (int x = 0; x < Line::kOut; ++x) out(y * Line::kOut + x, made[x]);
  }
}

// A matrix for each point, in scratch.
template <class T>
struct Planes {
  T* at;
  int64_t row, plane;
  Planes(T* to, int64_t rows, int64_t columns) : at(to) {
    const PlaneSizes sizes(rows, columns, sizeof(T));
    row = sizes.row, plane = sizes.plane;
  }
  Planes moved(int64_t by) const {
    Planes there = *this;
    there.at += by;
    return there;
  }
};

template <class T>
struct Whole {
  FASTMAML_INLINE Vec<T> load(const T* p) const { return FASTMAML_ISA::load(p); }
  FASTMAML_INLINE void store(T* p, Vec<T> v) const { FASTMAML_ISA::store(p, v); }
};

// body(c, lanes) for the vectors of `channels` channels.
template <class T, class Body>
FASTMAML_INLINE void each_channels(int64_t channels, Body&& body) {
  each_vector<T>(
      0, channels, [&](int64_t c) __attribute__((always_inline)) { body(c, Whole<T>{}); },
      [&](int64_t c, const Tail<T>& tail) __attribute__((always_inline)) { body(c, tail); });
}

struct TileAt {
  int64_t sheet, y, x;  // y, x: counted in tiles
};

// body(index, place) for the tiles [begin, end) of all sheets.
template <class Body>
FASTMAML_INLINE void each_tile(const Winograd& map, int64_t begin, int64_t end, Body&& body) {
  const int64_t each = map.tiles(), wide = map.tiles_x();
  TileAt at{begin / each, begin % each / wide, begin % each % wide};
  for (int64_t t = begin; t < end; ++t) {
    body(t - begin, at);
    if (++at.x < wide) continue;
    at.x = 0;
    if (++at.y * wide == each) at.y = 0, ++at.sheet;
  }
}

// In which image of a row (or column) of a sheet the lines first, first + 1, ... of a tile lie, and
// which of its `size` lines they are; -1 between the images and beyond the last of `count`. A line
// before the first image is no further away than the pitch.
template <int S>
struct SheetLines {
  int64_t image[S], line[S];
  FASTMAML_INLINE SheetLines(int64_t first, int64_t pitch, int64_t size, int64_t count) {
    int64_t at = first < 0 ? -1 : first / pitch, l = first < 0 ? first + pitch : first % pitch;
    for (int i = 0; i < S; ++i) {
      const bool there = at >= 0 && at < count && l < size;
      image[i] = at, line[i] = there ? l : -1;
      if (++l == pitch) l = 0, ++at;
    }
  }
};

// Images in memory; the first tile of a sheet begins at (-pad_y, -pad_x).
struct ImagesAt {
  int64_t count, h, w;
  int64_t pixel, image;  // elements between pixels, between images
  int64_t pad_y, pad_x;
};

// Where the pixels of a tile of side S lie, in elements from the first image; -1 outside.
template <int S>
FASTMAML_INLINE void tile_pixels(const Winograd& map, const TileAt& at, const ImagesAt& images,
                                 int64_t* to) {
  const SheetLines<S> ys(map.tile * at.y - images.pad_y, map.pitch_y(), images.h, map.down);
  const SheetLines<S> xs(map.tile * at.x - images.pad_x, map.pitch_x(), images.w, map.across);
  for (int i = 0; i < S * S; ++i) {
    const int64_t y = ys.line[i / S], x = xs.line[i % S];
    const int64_t image = (at.sheet * map.down + ys.image[i / S]) * map.across + xs.image[i % S];
    const bool there = y >= 0 && x >= 0 && image < images.count;
    to[i] = there ? image * images.image + (y * images.w + x) * images.pixel : -1;
  }
}

// What a pixel outside the image is read from.
template <class T>
alignas(64) constexpr T kZeros[kWidth<T>] = {};

// The tiles [begin, end), transformed by Line, to rows of `to`.
template <class Tile, class Line, class T>
void transform_tiles(const Winograd& map, int64_t begin, int64_t end, const T* pixels,
                     const ImagesAt& images, int64_t channels, const Planes<T>& to) {
  constexpr int S = Line::kIn, kShared = S - Tile::kTile;  // columns that the last tile had, too
  // Two tiles ahead: memory then keeps up with the arithmetic.
  constexpr int64_t kAhead = 2 * Tile::kTile;
  each_tile(map, begin, end, [&](int64_t index, const TileAt& at) {
    int64_t place[S * S];
    tile_pixels<S>(map, at, images, place);
    const T* from[S * S];
    int64_t inside[S * S];  // all ones, or 0: the same zeros for every channel
    for (int i = 0; i < S * S; ++i) {
      from[i] = place[i] < 0 ? kZeros<T> : pixels + place[i];
      inside[i] = place[i] < 0 ? 0 : ~int64_t{0};
    }
    T* const row = to.at + index * to.row;
    each_channels<T>(channels, [&](int64_t c, const auto& lanes) __attribute__((always_inline)) {
      transform<Line, Vec<T>>(
          [&](int i) __attribute__((always_inline)) {
            if (i % S >= kShared)
              __builtin_prefetch(from[i] + ((c + kAhead * images.pixel) & inside[i]));
            return lanes.load(from[i] + (c & inside[i]));
          },
          [&](int i, Vec<T> v)
              __attribute__((always_inline)) { store(row + i * to.plane + c, v); });
    });
  });
}

// Row `line` of the matrix G.
template <class Tile, class T>
FASTMAML_INLINE void weight_line(int line, T* g) {
  using Line = typename Tile::Weight;
  for (int i = 0; i < Line::kIn; ++i) {
    Vec<T> unit[Line::kIn] = {}, made[Line::kOut];
    unit[i] = splat<T>(1);
    Line::run(unit, made);
    g[i] = made[line][0];
  }
}

// Rows [0, k) and columns [0, n) of weights [9, rows `w_row` apart] to [k, 9, row]: what lies on
// thousands of pages becomes one stream, which all lines below then read.
template <class T>
void pack_weights(const T* w, int64_t w_tap, int64_t w_row, bool flipped, int64_t k, int64_t n,
                  T* to, int64_t row) {
  constexpr int kTaps = 9;
  const int64_t step = flipped ? -w_tap : w_tap;
  if (flipped) w += (kTaps - 1) * w_tap;
  for (int64_t i = 0; i < k; ++i, w += w_row)
    for (int t = 0; t < kTaps; ++t, to += row)
      each_channels<T>(n, [&](int64_t j, const auto& lanes) __attribute__((always_inline)) {
        const T* const at = w + t * step + j;
        __builtin_prefetch(at + 4 * w_row);
        store(to + j, lanes.load(at));
      });
}

// Packed weights to the points of one line, so that few matrices are written at a time.
template <class Tile, class T>
void transform_weights(int line, const T* w, int64_t w_row, int64_t k, int64_t n,
                       const Planes<T>& to) {
  using Line = typename Tile::Weight;
  constexpr int kIn = Line::kIn;
  T g[kIn];
  weight_line<Tile>(line, g);
  for (int64_t i = 0; i < k; ++i, w += kIn * kIn * w_row) {
    T* const row = to.at + i * to.row;
    for (int64_t j = 0; j < n; j += kWidth<T>) {
      Vec<T> half[kIn], made[Line::kOut];
#pragma GCC unroll 3
      for (int x = 0; x < kIn; ++x) {
        half[x] = g[0] * load(w + x * w_row + j);
#pragma GCC unroll 2
        for (int y = 1; y < kIn; ++y) half[x] += g[y] * load(w + (y * kIn + x) * w_row + j);
      }
      Line::run(half, made);
#pragma GCC unroll 7
      for (int x = 0; x < Line::kOut; ++x) store(row + x * to.plane + j, made[x]);
    }
  }
}

}  // namespace fastmaml::FASTMAML_ISA
