// Winograd's transforms on one core: tiles of pixels and taps of weights to matrices in scratch.
#pragma once

#include <type_traits>

#include "cpu/context.hpp"
#include "cpu/simd.hpp"
#include "ops/winograd/winograd.hpp"

namespace fastmaml::FASTMAML_ISA {

// One dimension of each transform of a method, in -> out. Rows of B^T, G and A^T belong to the
// places 0, then pairs of opposite ones, then infinity: pairs share what is even and what is odd.
//
//   F(2 x 2, 3 x 3)
//
//   B^T = 1  0 -1  0     G =  1    0    0      A^T = 1  1  1  0
//         0  1  1  0         1/2  1/2  1/2           0  1 -1 -1
//         0 -1  1  0         1/2 -1/2  1/2
//         0  1  0 -1          0    0    1
struct Tile2 {
  static constexpr int kTile = 2, kSide = 4, kPoints = kSide * kSide;

  struct Input {  // B^T d
    static constexpr int kIn = 4, kOut = 4;
    template <class V>
    static FASTMAML_INLINE void run(const V* d, V* v) {
      v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
    }
  };
  struct Weight {  // G w
    static constexpr int kIn = 3, kOut = 4;
    template <class V>
    static FASTMAML_INLINE void run(const V* w, V* u) {
      const V even = 0.5f * (w[0] + w[2]), odd = 0.5f * w[1];
      u[0] = w[0], u[1] = even + odd, u[2] = even - odd, u[3] = w[2];
    }
  };
  struct Output {  // A^T m
    static constexpr int kIn = 4, kOut = 2;
    template <class V>
    static FASTMAML_INLINE void run(const V* m, V* y) {
      y[0] = m[0] + (m[1] + m[2]), y[1] = (m[1] - m[2]) - m[3];
    }
  };
  struct Cotangent {  // A d
    static constexpr int kIn = 2, kOut = 4;
    template <class V>
    static FASTMAML_INLINE void run(const V* d, V* z) {
      z[0] = d[0], z[1] = d[0] + d[1], z[2] = d[0] - d[1], z[3] = -d[1];
    }
  };
  struct Gradient {  // G^T m
    static constexpr int kIn = 4, kOut = 3;
    template <class V>
    static FASTMAML_INLINE void run(const V* m, V* g) {
      const V even = 0.5f * (m[1] + m[2]);
      g[0] = m[0] + even, g[1] = 0.5f * (m[1] - m[2]), g[2] = even + m[3];
    }
  };
};

//   F(4 x 4, 3 x 3) at 0, +-a, +-b, infinity with a b = 1, s = a^2 + b^2,
//   p = 1 / (2 a^2 (a^2 - b^2)), q = 1 / (2 b^2 (b^2 - a^2))
//
//   B^T = 1   0   -s   0   1   0     G =  1   0     0     A^T = 1   1    1    1    1   0
//         0  -b  -b^2  a   1   0          p  a p  a^2 p         0   a   -a    b   -b   0
//         0   b  -b^2 -a   1   0          p -a p  a^2 p         0  a^2  a^2  b^2  b^2  0
//         0  -a  -a^2  b   1   0          q  b q  b^2 q         0  a^3 -a^3  b^3 -b^3  1
//         0   a  -a^2 -b   1   0          q -b q  b^2 q
//         0   1    0  -s   0   1          0   0     1
template <class T>
struct Places4 {
  static constexpr T a = T(2) / T(3), b = T(3) / T(2), aa = a * a, bb = b * b, s = aa + bb;
  static constexpr T p = 1 / (2 * aa * (aa - bb)), q = 1 / (2 * bb * (bb - aa));
};

struct Tile4 {
  static constexpr int kTile = 4, kSide = 6, kPoints = kSide * kSide;
  template <class V>
  using Places = Places4<std::remove_cvref_t<decltype(V{}[0])>>;

  struct Input {  // B^T d
    static constexpr int kIn = 6, kOut = 6;
    template <class V>
    static FASTMAML_INLINE void run(const V* d, V* v) {
      using P = Places<V>;
      const V even_a = d[4] - P::bb * d[2], odd_a = d[3] - P::bb * d[1];
      const V even_b = d[4] - P::aa * d[2], odd_b = d[3] - P::aa * d[1];
      v[0] = (d[0] + d[4]) - P::s * d[2];
      v[1] = even_a + P::a * odd_a, v[2] = even_a - P::a * odd_a;
      v[3] = even_b + P::b * odd_b, v[4] = even_b - P::b * odd_b;
      v[5] = (d[1] + d[5]) - P::s * d[3];
    }
  };
  struct Weight {  // G w
    static constexpr int kIn = 3, kOut = 6;
    template <class V>
    static FASTMAML_INLINE void run(const V* w, V* u) {
      using P = Places<V>;
      const V even_a = P::p * (w[0] + P::aa * w[2]), odd_a = (P::p * P::a) * w[1];
      const V even_b = P::q * (w[0] + P::bb * w[2]), odd_b = (P::q * P::b) * w[1];
      u[0] = w[0], u[5] = w[2];
      u[1] = even_a + odd_a, u[2] = even_a - odd_a;
      u[3] = even_b + odd_b, u[4] = even_b - odd_b;
    }
  };
  struct Output {  // A^T m
    static constexpr int kIn = 6, kOut = 4;
    template <class V>
    static FASTMAML_INLINE void run(const V* m, V* y) {
      using P = Places<V>;
      const V even_a = m[1] + m[2], odd_a = P::a * (m[1] - m[2]);
      const V even_b = m[3] + m[4], odd_b = P::b * (m[3] - m[4]);
      y[0] = m[0] + (even_a + even_b), y[1] = odd_a + odd_b;
      y[2] = P::aa * even_a + P::bb * even_b, y[3] = P::aa * odd_a + (P::bb * odd_b + m[5]);
    }
  };
  struct Cotangent {  // A d
    static constexpr int kIn = 4, kOut = 6;
    template <class V>
    static FASTMAML_INLINE void run(const V* d, V* z) {
      using P = Places<V>;
      const V even_a = d[0] + P::aa * d[2], odd_a = P::a * (d[1] + P::aa * d[3]);
      const V even_b = d[0] + P::bb * d[2], odd_b = P::b * (d[1] + P::bb * d[3]);
      z[0] = d[0], z[5] = d[3];
      z[1] = even_a + odd_a, z[2] = even_a - odd_a;
      z[3] = even_b + odd_b, z[4] = even_b - odd_b;
    }
  };
  struct Gradient {  // G^T m
    static constexpr int kIn = 6, kOut = 3;
    template <class V>
    static FASTMAML_INLINE void run(const V* m, V* g) {
      using P = Places<V>;
      const V even_a = P::p * (m[1] + m[2]), even_b = P::q * (m[3] + m[4]);
      g[0] = m[0] + (even_a + even_b);
      g[1] = (P::p * P::a) * (m[1] - m[2]) + (P::q * P::b) * (m[3] - m[4]);
      g[2] = P::aa * even_a + (P::bb * even_b + m[5]);
    }
  };
};

// Both dimensions: in(i) of [kIn, kIn] -> out(i, value) of [kOut, kOut].
template <class Line, class V, class In, class Out>
FASTMAML_INLINE void transform(In&& in, Out&& out) {
  V half[Line::kOut][Line::kIn];
#pragma GCC unroll 6
  for (int x = 0; x < Line::kIn; ++x) {
    V column[Line::kIn], made[Line::kOut];
#pragma GCC unroll 6
    for (int y = 0; y < Line::kIn; ++y) column[y] = in(y * Line::kIn + x);
    Line::run(column, made);
#pragma GCC unroll 6
    for (int y = 0; y < Line::kOut; ++y) half[y][x] = made[y];
  }
#pragma GCC unroll 6
  for (int y = 0; y < Line::kOut; ++y) {
    V made[Line::kOut];
    Line::run(half[y], made);
#pragma GCC unroll 6
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
template <class Tile, class Line, class T>
void transform_tiles(const Winograd& map, int64_t begin, int64_t end, const TileSource<T>& source,
                     const Planes<T>& to) {
  constexpr int S = Line::kIn, kShared = S - Tile::kTile;  // columns that the last tile had, too
  // Two tiles ahead: memory then keeps up with the arithmetic.
  constexpr int64_t kAhead = 2 * Tile::kTile;
  each_tile(map, begin, end, [&](int64_t index, const TileAt& at) {
    const T* from[S * S];
    int64_t inside[S * S];  // all ones, or 0: the same zeros for every channel
    const int64_t top = Tile::kTile * at.y - source.pad_y, left = Tile::kTile * at.x - source.pad_x;
    const T* const image = source.at + at.image * source.image;
    for (int i = 0; i < S * S; ++i) {
      const int64_t y = top + i / S, x = left + i % S;
      const bool there = y >= 0 && y < source.h && x >= 0 && x < source.w;
      from[i] = there ? image + (y * source.w + x) * source.pixel : kZeros<T>;
      inside[i] = there ? ~int64_t{0} : 0;
    }
    T* const row = to.at + index * to.row;
    each_channels<T>(
        source.channels, [&](int64_t c, const auto& lanes) __attribute__((always_inline)) {
          transform<Line, Vec<T>>(
              [&](int i) __attribute__((always_inline)) {
                if (i % S >= kShared)
                  __builtin_prefetch(from[i] + ((c + kAhead * source.pixel) & inside[i]));
                return lanes.load(from[i] + (c & inside[i]));
              },
              [&](int i, Vec<T> v)
                  __attribute__((always_inline)) { store(row + i * to.plane + c, v); });
        });
  });
}

// Rows [0, k) and columns [0, n) of weights packed as [9, rows `w_row` apart] to `to`.
template <class Tile, class T>
void transform_weights(const T* w, int64_t w_tap, int64_t w_row, bool flipped, int64_t k, int64_t n,
                       const Planes<T>& to) {
  constexpr int kTaps = 9;
  const int64_t step = flipped ? -w_tap : w_tap;
  if (flipped) w += (kTaps - 1) * w_tap;
  for (int64_t i = 0; i < k; ++i, w += w_row) {
    T* const row = to.at + i * to.row;
    each_channels<T>(n, [&](int64_t j, const auto& lanes) __attribute__((always_inline)) {
      transform<typename Tile::Weight, Vec<T>>(
          [&](int t) __attribute__((always_inline)) {
            __builtin_prefetch(w + t * step + 2 * w_row + j);
            return lanes.load(w + t * step + j);
          },
          [&](int p, Vec<T> u)
              __attribute__((always_inline)) { store(row + p * to.plane + j, u); });
    });
  }
}

}  // namespace fastmaml::FASTMAML_ISA
