// Winograd's transforms on one core: tiles of pixels and taps of weights to 16 matrices in scratch.
#pragma once

#include "cpu/context.hpp"
#include "cpu/simd.hpp"
#include "ops/winograd/winograd.hpp"

namespace fastmaml::FASTMAML_ISA {

constexpr int kPoints = kWinogradPoints;

// One dimension of each transform, in -> out; numbers `in_step` and `out_step` apart.
struct InputLine {  // B^T d
  static constexpr int kIn = 4, kOut = 4;
  template <class V>
  static FASTMAML_INLINE void run(const V* d, int in_step, V* v, int out_step) {
    v[0] = d[0] - d[2 * in_step];
    v[out_step] = d[in_step] + d[2 * in_step];
    v[2 * out_step] = d[2 * in_step] - d[in_step];
    v[3 * out_step] = d[in_step] - d[3 * in_step];
  }
};
struct WeightLine {  // G w
  static constexpr int kIn = 3, kOut = 4;
  template <class V>
  static FASTMAML_INLINE void run(const V* w, int in_step, V* u, int out_step) {
    const V ends = 0.5f * (w[0] + w[2 * in_step]), middle = 0.5f * w[in_step];
    u[0] = w[0];
    u[out_step] = ends + middle;
    u[2 * out_step] = ends - middle;
    u[3 * out_step] = w[2 * in_step];
  }
};
struct OutputLine {  // A^T m
  static constexpr int kIn = 4, kOut = 2;
  template <class V>
  static FASTMAML_INLINE void run(const V* m, int in_step, V* y, int out_step) {
    y[0] = m[0] + (m[in_step] + m[2 * in_step]);
    y[out_step] = (m[in_step] - m[2 * in_step]) - m[3 * in_step];
  }
};
struct CotangentLine {  // A d
  static constexpr int kIn = 2, kOut = 4;
  template <class V>
  static FASTMAML_INLINE void run(const V* d, int in_step, V* z, int out_step) {
    z[0] = d[0];
    z[out_step] = d[0] + d[in_step];
    z[2 * out_step] = d[0] - d[in_step];
    z[3 * out_step] = -d[in_step];
  }
};
struct GradientLine {  // G^T m
  static constexpr int kIn = 4, kOut = 3;
  template <class V>
  static FASTMAML_INLINE void run(const V* m, int in_step, V* g, int out_step) {
    const V even = 0.5f * (m[in_step] + m[2 * in_step]);
    g[0] = m[0] + even;
    g[out_step] = 0.5f * (m[in_step] - m[2 * in_step]);
    g[2 * out_step] = even + m[3 * in_step];
  }
};

// Both dimensions: [kIn, kIn] -> [kOut, kOut].
template <class Line, class V>
FASTMAML_INLINE void transform(const V* in, V* out) {
  V half[Line::kOut * Line::kIn];
#pragma GCC unroll 4
  for (int x = 0; x < Line::kIn; ++x) Line::run(in + x, Line::kIn, half + x, Line::kIn);
#pragma GCC unroll 4
  for (int y = 0; y < Line::kOut; ++y) Line::run(half + y * Line::kIn, 1, out + y * Line::kOut, 1);
}

// 16 matrices in scratch.
template <class T>
struct Planes {
  T* at;
  int64_t row, plane;
  Planes(T* to, int64_t rows, int64_t columns) : at(to) {
    const PlaneSizes sizes(rows, columns, sizeof(T));
    row = sizes.row, plane = sizes.plane;
  }
  T* end() const { return at + kPoints * plane; }
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
  int64_t image, y, x;  // y, x: counted in tiles
};

// body(index, place) for the tiles [begin, end) of all images.
template <class Body>
FASTMAML_INLINE void each_tile(const Winograd& map, int64_t begin, int64_t end, Body&& body) {
  const int64_t each = map.tiles(), wide = map.tiles_x();
  TileAt at{begin / each, begin % each / wide, begin % each % wide};
  for (int64_t t = begin; t < end; ++t) {
    body(t - begin, at);
    if (++at.x < wide) continue;
    at.x = 0;
    if (++at.y * wide == each) at.y = 0, ++at.image;
  }
}

// What a pixel outside the image is read from.
template <class T>
alignas(64) constexpr T kZeros[kWidth<T>] = {};

// Images that tiles are cut from; the first tile begins at (-pad_y, -pad_x).
template <class T>
struct TileSource {
  const T* at;
  int64_t pixel, image, channels;  // elements between pixels, between images; channels to take
  int64_t h, w, pad_y, pad_x;
};

// The tiles [begin, end), transformed by Line, to rows of `to`.
template <class Line, class T>
void transform_tiles(const Winograd& map, int64_t begin, int64_t end, const TileSource<T>& source,
                     const Planes<T>& to) {
  constexpr int S = Line::kIn;
  // Two tiles ahead: memory then keeps up with the arithmetic.
  constexpr int64_t kAhead = 4;
  each_tile(map, begin, end, [&](int64_t index, const TileAt& at) {
    const T* from[S * S];
    int64_t inside[S * S];  // all ones, or 0: the same zeros for every channel
    const int64_t top = 2 * at.y - source.pad_y, left = 2 * at.x - source.pad_x;
    const T* const image = source.at + at.image * source.image;
    for (int i = 0; i < S * S; ++i) {
      const int64_t y = top + i / S, x = left + i % S;
      const bool there = y >= 0 && y < source.h && x >= 0 && x < source.w;
      from[i] = there ? image + (y * source.w + x) * source.pixel : kZeros<T>;
      inside[i] = there ? ~int64_t{0} : 0;
    }
    T* const row = to.at + index * to.row;
    each_channels<T>(source.channels,
                     [&](int64_t c, const auto& lanes) __attribute__((always_inline)) {
                       Vec<T> d[S * S], v[kPoints];
#pragma GCC unroll 16
                       for (int i = 0; i < S * S; ++i) d[i] = lanes.load(from[i] + (c & inside[i]));
#pragma GCC unroll 16
                       for (int i = 0; i < S * S; ++i)
                         if (i % S >= S - 2)
                           __builtin_prefetch(from[i] + ((c + kAhead * source.pixel) & inside[i]));
                       transform<Line>(d, v);
#pragma GCC unroll 16
                       for (int i = 0; i < kPoints; ++i) store(row + i * to.plane + c, v[i]);
                     });
  });
}

// Rows [0, k) and columns [0, n) of weights packed as [9, rows `w_row` apart] to `to`.
template <class T>
void transform_weights(const T* w, int64_t w_tap, int64_t w_row, bool flipped, int64_t k, int64_t n,
                       const Planes<T>& to) {
  constexpr int kTaps = 9;
  const int64_t step = flipped ? -w_tap : w_tap;
  if (flipped) w += (kTaps - 1) * w_tap;
  for (int64_t i = 0; i < k; ++i, w += w_row) {
    T* const row = to.at + i * to.row;
    each_channels<T>(n, [&](int64_t j, const auto& lanes) __attribute__((always_inline)) {
      Vec<T> g[kTaps], u[kPoints];
#pragma GCC unroll 9
      for (int t = 0; t < kTaps; ++t) {
        g[t] = lanes.load(w + t * step + j);
        __builtin_prefetch(w + t * step + 2 * w_row + j);
      }
      transform<WeightLine>(g, u);
#pragma GCC unroll 16
      for (int p = 0; p < kPoints; ++p) store(row + p * to.plane + j, u[p]);
    });
  }
}

}  // namespace fastmaml::FASTMAML_ISA
