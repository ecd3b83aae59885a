// Winograd's transforms in one dimension, in vectors of channels.
#pragma once

#include <type_traits>

#include "cpu/simd.hpp"
#include "ops/winograd/winograd.hpp"

namespace fastmaml::FASTMAML_ISA {

// One dimension of each transform of a method, in -> out. Rows of B^T, G and A^T belong to the
// places: 0 where it is one, pairs of opposite ones, infinity. Pairs share what is even and what is
// odd.
//
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

//   F(5 x 5, 3 x 3) at +-a, +-b, +-c, infinity. With e = (x^2 - b^2) (x^2 - c^2), the rows of +-a
//   in B^T are the coefficients of e (1 +- x / a), and in G those of p (1 +- a x + a^2 x^2) with p
//   = 1 / (2 (a^2 - b^2) (a^2 - c^2)); A^T as above. The last row of B^T is (x^2 - a^2) e.
template <class T>
struct Places5 {
  // One of the three pairs; u and v are the squares of the others.
  struct Pair {
    T at, inverse, square, sum, product, p;
    constexpr Pair(T x, T u, T v)
        : at(x),
          inverse(1 / x),
          square(x * x),
          sum(u + v),
          product(u * v),
          p(1 / (2 * (x * x - u) * (x * x - v))) {}
  };
  static constexpr T a = T(2) / T(7), b = T(6) / T(7), c = T(7) / T(4);
  static constexpr Pair pairs[3] = {{a, b * b, c * c}, {b, a * a, c * c}, {c, a * a, b * b}};
  // (x^2 - a^2) (x^2 - b^2) (x^2 - c^2) = x^6 - s1 x^4 + s2 x^2 - s3
  static constexpr T s1 = a * a + b * b + c * c, s3 = a * a * b * b * c * c;
  static constexpr T s2 = a * a * (b * b + c * c) + b * b * c * c;
};

struct Tile5 {
  static constexpr int kTile = 5, kSide = 7, kPoints = kSide * kSide;
  template <class V>
  using Places = Places5<std::remove_cvref_t<decltype(V{}[0])>>;

  // body(pair, its number), unrolled.
  template <class V, class Body>
  static FASTMAML_INLINE void each_pair(Body&& body) {
    body(Places<V>::pairs[0], 0), body(Places<V>::pairs[1], 1), body(Places<V>::pairs[2], 2);
  }

  struct Input {  // B^T d
    static constexpr int kIn = 7, kOut = 7;
    template <class V>
    static FASTMAML_INLINE void run(const V* d, V* v) {
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V even = (d[4] - pair.sum * d[2]) + pair.product * d[0];
        const V odd = (d[5] - pair.sum * d[3]) + pair.product * d[1];
        v[2 * i] = even + pair.inverse * odd, v[2 * i + 1] = even - pair.inverse * odd;
      });
      using P = Places<V>;
      v[6] = (d[6] - P::s1 * d[4]) + (P::s2 * d[2] - P::s3 * d[0]);
    }
  };
  struct Weight {  // G w
    static constexpr int kIn = 3, kOut = 7;
    template <class V>
    static FASTMAML_INLINE void run(const V* w, V* u) {
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V even = pair.p * (w[0] + pair.square * w[2]), odd = (pair.p * pair.at) * w[1];
        u[2 * i] = even + odd, u[2 * i + 1] = even - odd;
      });
      u[6] = w[2];
    }
  };
  struct Output {  // A^T m
    static constexpr int kIn = 7, kOut = 5;
    template <class V>
    static FASTMAML_INLINE void run(const V* m, V* y) {
      const V zero{};
      y[0] = y[1] = y[2] = y[3] = zero, y[4] = m[6];
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V even = m[2 * i] + m[2 * i + 1], odd = pair.at * (m[2 * i] - m[2 * i + 1]);
        y[0] += even, y[1] += odd, y[2] += pair.square * even, y[3] += pair.square * odd;
        y[4] += (pair.square * pair.square) * even;
      });
    }
  };
  struct Cotangent {  // A d
    static constexpr int kIn = 5, kOut = 7;
    template <class V>
    static FASTMAML_INLINE void run(const V* d, V* z) {
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V even = d[0] + pair.square * (d[2] + pair.square * d[4]);
        const V odd = pair.at * (d[1] + pair.square * d[3]);
        z[2 * i] = even + odd, z[2 * i + 1] = even - odd;
      });
      z[6] = d[4];
    }
  };
  struct Gradient {  // G^T m
    static constexpr int kIn = 7, kOut = 3;
    template <class V>
    static FASTMAML_INLINE void run(const V* m, V* g) {
      const V zero{};
      g[0] = g[1] = zero, g[2] = m[6];
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V even = pair.p * (m[2 * i] + m[2 * i + 1]);
        g[0] += even, g[1] += (pair.p * pair.at) * (m[2 * i] - m[2 * i + 1]);
        g[2] += pair.square * even;
      });
    }
  };
};

}  // namespace fastmaml::FASTMAML_ISA
