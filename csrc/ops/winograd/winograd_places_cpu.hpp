// Winograd's transforms in one dimension, in vectors of channels.
#pragma once

#include <type_traits>

#include "cpu/simd.hpp"
#include "ops/contract/contract_problem_cpu.hpp"
#include "ops/winograd/winograd.hpp"

namespace fastmaml::FASTMAML_ISA {

// One dimension of each transform of a method, in -> out. Rows of B^T, G and A^T belong to the
// places: 0 where it is one, pairs of opposite ones, infinity. Pairs share what is even and what is
// odd.
//
// With e = (x^2 - b^2) (x^2 - c^2), the rows of +-a in G are p (1, +-a, a^2), their columns in A^T
// 1, +-a, a^2, +-a^3, ..., and their rows in B^T, as coefficients of 1, x, x^2, ...,
//
//   F(5 x 5, 3 x 3) at +-a, +-b, +-c, infinity
//       e (1 +- x / a),  p = 1 / (2 (a^2 - b^2) (a^2 - c^2))
//   F(6 x 6, 3 x 3) at 0, +-a, +-b, +-c, infinity
//       e x (x +- a),    p = 1 / (2 a^2 (a^2 - b^2) (a^2 - c^2))
//
// The row of infinity in B^T is (x^2 - a^2) e, times x where 0 is a place; that of 0 is
// -(x^2 - a^2) e for a b c = 1.
template <class T, int M>
struct Places {
  static constexpr bool kZero = M == 6;
  static constexpr T a = kZero ? T(1) / T(2) : T(2) / T(7), b = kZero ? T(1) : T(6) / T(7);
  static constexpr T c = kZero ? T(2) : T(7) / T(4);
  // One of the three pairs; u and v are the squares of the others. `slope`: see B^T.
  struct Pair {
    T at, slope, square, sum, product, p;
    constexpr Pair(T x, T u, T v)
        : at(x),
          slope(kZero ? x : 1 / x),
          square(x * x),
          sum(u + v),
          product(u * v),
          p(1 / ((kZero ? 2 * x * x : T(2)) * (x * x - u) * (x * x - v))) {}
  };
  static constexpr Pair pairs[3] = {{a, b * b, c * c}, {b, a * a, c * c}, {c, a * a, b * b}};
  // (x^2 - a^2) (x^2 - b^2) (x^2 - c^2) = x^6 - s1 x^4 + s2 x^2 - s3
  static constexpr T s1 = a * a + b * b + c * c, s3 = a * a * b * b * c * c;
  static constexpr T s2 = a * a * (b * b + c * c) + b * b * c * c;
};

// F(M x M, 3 x 3), M 5 or 6.
template <int M>
struct Tile {
  static constexpr int kTile = M, kSide = M + 2, kPoints = kSide * kSide, kLast = kSide - 1;
  static constexpr int64_t kLongest = kChain;  // of sums over channels
  static constexpr int kZero = M == 6;         // where the pairs begin
  template <class V>
  using At = Places<std::remove_cvref_t<decltype(V{}[0])>, M>;

  // body(pair, its first place), unrolled.
  template <class V, class Body>
  static FASTMAML_INLINE void each_pair(Body&& body) {
    const auto& pairs = At<V>::pairs;
    body(pairs[0], kZero), body(pairs[1], kZero + 2), body(pairs[2], kZero + 4);
  }

  struct Input {  // B^T d
    static constexpr int kIn = kSide, kOut = kSide;
    template <class V>
    static FASTMAML_INLINE void run(const V* d, V* v) {
      using P = At<V>;
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V* const e = d + 2 * kZero;
        const V even = (e[4] - pair.sum * e[2]) + pair.product * e[0];
        const V odd = (d[5] - pair.sum * d[3]) + pair.product * d[1];
        v[i] = even + pair.slope * odd, v[i + 1] = even - pair.slope * odd;
      });
      const V* const l = d + kZero;
      v[kLast] = (l[6] - P::s1 * l[4]) + (P::s2 * l[2] - P::s3 * l[0]);
      if constexpr (kZero) v[0] = (d[0] - P::s2 * d[2]) + (P::s1 * d[4] - d[6]);
    }
  };
  struct Weight {  // G w
    static constexpr int kIn = 3, kOut = kSide;
    template <class V>
    static FASTMAML_INLINE void run(const V* w, V* u) {
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V even = pair.p * (w[0] + pair.square * w[2]), odd = (pair.p * pair.at) * w[1];
        u[i] = even + odd, u[i + 1] = even - odd;
      });
      u[kLast] = w[2];
      if constexpr (kZero) u[0] = w[0];
    }
  };
  struct Output {  // A^T m
    static constexpr int kIn = kSide, kOut = M;
    template <class V>
    static FASTMAML_INLINE void run(const V* m, V* y) {
      const V zero{};
      y[0] = kZero ? m[0] : zero, y[1] = y[2] = y[3] = y[4] = zero, y[M - 1] = m[kLast];
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V even = m[i] + m[i + 1], odd = pair.at * (m[i] - m[i + 1]);
        const auto fourth = pair.square * pair.square;
        y[0] += even, y[1] += odd, y[2] += pair.square * even, y[3] += pair.square * odd;
        y[4] += fourth * even;
        if constexpr (M == 6) y[5] += fourth * odd;
      });
    }
  };
  struct Cotangent {  // A d
    static constexpr int kIn = M, kOut = kSide;
    template <class V>
    static FASTMAML_INLINE void run(const V* d, V* z) {
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        V third = d[3];
        if constexpr (M == 6) third += pair.square * d[5];
        const V even = d[0] + pair.square * (d[2] + pair.square * d[4]);
        const V odd = pair.at * (d[1] + pair.square * third);
        z[i] = even + odd, z[i + 1] = even - odd;
      });
      z[kLast] = d[M - 1];
      if constexpr (kZero) z[0] = d[0];
    }
  };
  struct Gradient {  // G^T m
    static constexpr int kIn = kSide, kOut = 3;
    template <class V>
    static FASTMAML_INLINE void run(const V* m, V* g) {
      const V zero{};
      g[0] = kZero ? m[0] : zero, g[1] = zero, g[2] = m[kLast];
      each_pair<V>([&](const auto& pair, int i) __attribute__((always_inline)) {
        const V even = pair.p * (m[i] + m[i + 1]);
        g[0] += even, g[1] += (pair.p * pair.at) * (m[i] - m[i + 1]);
        g[2] += pair.square * even;
      });
    }
  };
};

// F(2 x 2, 3 x 3) at 0, +-1, infinity; the forward pass alone takes it.
//
//   B^T = 1  0 -1  0     G =  1    0    0     A^T = 1  1  1  0
//         0  1  1  0         1/2  1/2  1/2          0  1 -1 -1
//         0 -1  1  0         1/2 -1/2  1/2
//         0  1  0 -1          0    0    1
template <>
struct Tile<2> {
  static constexpr int kTile = 2, kSide = 4, kPoints = kSide * kSide;
  static constexpr int64_t kLongest = kForwardChain;

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
      using T = std::remove_cvref_t<decltype(V{}[0])>;
      const V even = (w[0] + w[2]) * T(0.5), odd = w[1] * T(0.5);
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
};

}  // namespace fastmaml::FASTMAML_ISA
