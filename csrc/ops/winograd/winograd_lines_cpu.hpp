// Winograd's transforms on one core: tiles of pixels and taps of weights to matrices in scratch.
#pragma once

#include "cpu/context.hpp"
#include "ops/winograd/winograd_places_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// Both dimensions: in(i) of [kIn, kIn] -> out(i, value) of [kOut, kOut].
template <class Line, class V, class In, class Out>
FASTMAML_INLINE void transform(In&& in, Out&& out) {
  V half[Line::kOut][Line::kIn];
#pragma GCC unroll 8
  for (int x = 0; x < Line::kIn; ++x) {
    V column[Line::kIn], made[Line::kOut];
#pragma GCC unroll 8
    for (int y = 0; y < Line::kIn; ++y) column[y] = in(y * Line::kIn + x);
    Line::run(column, made);
#pragma GCC unroll 8
    for (int y = 0; y < Line::kOut; ++y) half[y][x] = made[y];
  }
#pragma GCC unroll 8
  for (int y = 0; y < Line::kOut; ++y) {
    V made[Line::kOut];
    Line::run(half[y], made);
#pragma GCC unroll 8
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

// body(c, lanes) for the vectors of `channels` channels. (Where all lanes can be masked for
// nothing, there is one kind of lanes: half of the code.)
template <class T, class Body>
FASTMAML_INLINE void each_channels(int64_t channels, Body&& body) {
  if constexpr (kHasHalf) {
    for (int64_t c = 0; c < channels; c += kWidth<T>)
      body(c, Tail<T>(static_cast<int>(channels - c < kWidth<T> ? channels - c : kWidth<T>)));
  } else {
    each_vector<T>(
        0, channels, [&](int64_t c) __attribute__((always_inline)) { body(c, Whole<T>{}); },
        [&](int64_t c, const Tail<T>& tail) __attribute__((always_inline)) { body(c, tail); });
  }
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

// Images in memory; the first tile of a sheet begins at (-pad_y, -pad_x).
struct ImagesAt {
  int64_t count, h, w;
  int64_t pixel, image;  // elements between pixels, between images
  int64_t pad_y, pad_x;
};

// Where the pixels of a tile of side S lie. Tables, so that a tile costs no division or branch for
// each of its pixels: those of a line of tiles are made once.
template <int S>
class TilePixels {
 public:
  TilePixels(const Winograd& map, const ImagesAt& images) : map_(map), images_(images) {}

  // Pointers into images that begin at `first`; `outside` between the images and beyond the last.
  template <class P>
  FASTMAML_INLINE void find(const TileAt& at, P first, P outside, P* to) {
    if (at.sheet != sheet_ || at.y != y_) rows(at);
    columns(at);
    for (int y = 0; y < S; ++y) {
      const P row = first + row_offset_[y];
      for (int x = 0; x < S; ++x)
        to[y * S + x] = column_image_[x] < row_images_[y] ? row + column_offset_[x] : outside;
    }
  }

 private:
  static constexpr int64_t kOutside = INT64_MAX;

  // body(i, image, line) for each of a tile's lines: in which image of a row (or column) of the
  // sheet, which of its `size` lines. kOutside between the images and beyond the last of `count`. A
  // line before the first image is no further away than the pitch.
  template <class Body>
  static FASTMAML_INLINE void each_line(int64_t first, int64_t pitch, int64_t size, int64_t count,
                                        Body&& body) {
    int64_t at = first < 0 ? -1 : first / pitch, l = first < 0 ? first + pitch : first - at * pitch;
    for (int i = 0; i < S; ++i) {
      const bool there = at >= 0 && at < count && l < size;
      body(i, there ? at : kOutside, there ? l : 0);
      if (++l == pitch) l = 0, ++at;
    }
  }

  void rows(const TileAt& at) {
    sheet_ = at.sheet, y_ = at.y;
    each_line(map_.tile * at.y - images_.pad_y, map_.pitch_y(), images_.h, map_.down,
              [&](int i, int64_t image, int64_t line) {
                const int64_t before = (at.sheet * map_.down + image) * map_.across;
                row_images_[i] = image == kOutside ? 0 : images_.count - before;
                row_offset_[i] = image == kOutside
                                     ? 0
                                     : before * images_.image + line * images_.w * images_.pixel;
              });
  }
  FASTMAML_INLINE void columns(const TileAt& at) {
    each_line(map_.tile * at.x - images_.pad_x, map_.pitch_x(), images_.w, map_.across,
              [&](int i, int64_t image, int64_t line) {
                column_image_[i] = image;
                column_offset_[i] =
                    image == kOutside ? 0 : image * images_.image + line * images_.pixel;
              });
  }

  const Winograd& map_;
  const ImagesAt& images_;
  int64_t sheet_ = -1, y_ = -1;
  // Of a row of pixels: images of the sheet that it crosses and that there are, where they begin.
  int64_t row_images_[S]{}, row_offset_[S]{};
  int64_t column_image_[S], column_offset_[S];
};

// The tiles [begin, end), transformed by Line, to rows of `to`. At most kWinogradZeros channels.
template <class Tile, class Line, class T>
void transform_some(const Winograd& map, int64_t begin, int64_t end, const T* pixels,
                    const ImagesAt& images, int64_t channels, const Planes<T>& to) {
  constexpr int S = Line::kIn, kShared = S - Tile::kTile;  // columns that the last tile had, too
  // Two tiles ahead: memory then keeps up with the arithmetic.
  constexpr int64_t kAhead = 2 * Tile::kTile;
  const T* const zeros = static_cast<const T*>(static_cast<const void*>(kWinogradZeros));
  TilePixels<S> places(map, images);
  each_tile(map, begin, end, [&](int64_t index, const TileAt& at) {
    const T* from[S * S];
    places.find(at, pixels, zeros, from);
    T* const row = to.at + index * to.row;
    each_channels<T>(channels, [&](int64_t c, const auto& lanes) __attribute__((always_inline)) {
      transform<Line, Vec<T>>(
          [&](int i) __attribute__((always_inline)) {
            if (i % S >= kShared) fetch(from[i] + (c + kAhead * images.pixel));
            return lanes.load(from[i] + c);
          },
          [&](int i, Vec<T> v) __attribute__((always_inline)) {
            T* const at = row + i * to.plane + c;
            fetch(at + to.row);
            store(at, v);
          });
    });
  });
}

template <class Tile, class Line, class T>
void transform_tiles(const Winograd& map, int64_t begin, int64_t end, const T* pixels,
                     const ImagesAt& images, int64_t channels, const Planes<T>& to) {
  constexpr auto kMost = static_cast<int64_t>(sizeof kWinogradZeros / sizeof(T));
  for (int64_t c = 0; c < channels; c += kMost)
    transform_some<Tile, Line>(map, begin, end, pixels + c, images,
                               channels - c < kMost ? channels - c : kMost, to.moved(c));
}

// The first dimension of rows [0, k) and columns [0, n) of weights [9, rows `w_row` apart], for
// each line of points [k, 3, n]: what lies on thousands of pages becomes one stream for each line
// of points.
template <class Tile, class T>
void halve_weights(const T* w, int64_t w_tap, int64_t w_row, bool flipped, int64_t k, int64_t n,
                   const Planes<T>& lines) {
  using Line = typename Tile::Weight;
  constexpr int kTaps = 3;
  const int64_t step = flipped ? -w_tap : w_tap;
  T* to = lines.at;
  if (flipped) w += (kTaps * kTaps - 1) * w_tap;
  for (int64_t i = 0; i < k; ++i, w += w_row)
    for (int x = 0; x < kTaps; ++x, to += lines.row)
      each_channels<T>(n, [&](int64_t j, const auto& lanes) __attribute__((always_inline)) {
        Vec<T> column[kTaps], made[Line::kOut];
#pragma GCC unroll 3
        for (int y = 0; y < kTaps; ++y) {
          const T* const at = w + (y * kTaps + x) * step + j;
          fetch(at + 4 * w_row);
          column[y] = lanes.load(at);
        }
        Line::run(column, made);
#pragma GCC unroll 8
        for (int y = 0; y < Line::kOut; ++y) store(to + y * lines.plane + j, made[y]);
      });
}

// The second, of one line: to its points, so that few matrices are written at a time.
template <class Tile, class T>
void transform_weights(const T* half, int64_t half_row, int64_t k, int64_t n, const Planes<T>& to) {
  using Line = typename Tile::Weight;
  for (int64_t i = 0; i < k; ++i, half += Line::kIn * half_row) {
    T* const row = to.at + i * to.row;
    for (int64_t j = 0; j < n; j += kWidth<T>) {
      Vec<T> taps[Line::kIn], made[Line::kOut];
#pragma GCC unroll 3
      for (int x = 0; x < Line::kIn; ++x) taps[x] = load(half + x * half_row + j);
      Line::run(taps, made);
#pragma GCC unroll 8
      for (int x = 0; x < Line::kOut; ++x) store(row + x * to.plane + j, made[x]);
    }
  }
}

}  // namespace fastmaml::FASTMAML_ISA
