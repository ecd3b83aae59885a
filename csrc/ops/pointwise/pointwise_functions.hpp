// The functions of pointwise, one struct each: value(x), slope(z) and curve(z), where z is x or y
// (see pointwise.hpp). `Vec<T>` and the elementary functions are those of whoever includes this:
// vectors on the CPU, numbers on a device.
#pragma once

#include "ops/pointwise/pointwise.hpp"

namespace fastmaml::FASTMAML_ISA {

template <class T>
struct Relu {
  static constexpr bool kCurved = false;
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const { return select<T>(x <= T(0), splat<T>(0), x); }
  FASTMAML_INLINE Vec<T> slope(Vec<T> y) const {
    return select<T>(y > T(0), splat<T>(1), splat<T>(0));
  }
  FASTMAML_INLINE Vec<T> curve(Vec<T>) const { return splat<T>(0); }
};

template <class T>
struct LeakyRelu {
  static constexpr bool kCurved = false;
  T negative_slope;
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const {
    return select<T>(x > T(0), x, x * negative_slope);
  }
  FASTMAML_INLINE Vec<T> slope(Vec<T> x) const {
    return select<T>(x > T(0), splat<T>(1), splat<T>(negative_slope));
  }
  FASTMAML_INLINE Vec<T> curve(Vec<T>) const { return splat<T>(0); }
};

template <class T>
struct Elu {
  static constexpr bool kCurved = true;
  T alpha;
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const {
    return select<T>(x > T(0), x, expm1<T>(x) * alpha);
  }
  FASTMAML_INLINE Vec<T> slope(Vec<T> x) const {
    return select<T>(x > T(0), splat<T>(1), exp<T>(x) * alpha);
  }
  FASTMAML_INLINE Vec<T> curve(Vec<T> x) const {
    return select<T>(x < T(0), exp<T>(x) * alpha, splat<T>(0));
  }
};

// With the normal density phi(x) = exp(-x^2 / 2) / sqrt(2 pi): slope = Phi + x phi, and
// curve = phi (2 - x^2).
template <class T>
struct Gelu {
  static constexpr bool kCurved = true;
  FASTMAML_INLINE Vec<T> distribution(Vec<T> x) const {
    return (erf<T>(x * T(0.70710678118654752440)) + T(1)) * T(0.5);
  }
  FASTMAML_INLINE Vec<T> density(Vec<T> x) const {
    return exp<T>(x * x * T(-0.5)) * T(0.39894228040143267794);
  }
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const { return x * distribution(x); }
  FASTMAML_INLINE Vec<T> slope(Vec<T> x) const { return distribution(x) + x * density(x); }
  FASTMAML_INLINE Vec<T> curve(Vec<T> x) const { return density(x) * (T(2) - x * x); }
};

// With u = c (x + d x^3): (1 + tanh(u)) / 2 = s(2 u), the logistic function, whose two tails s and
// q = 1 - s give 1 - tanh(u)^2 = 4 s q and tanh(u) = s - q.
template <class T>
struct GeluTanh {
  static constexpr bool kCurved = true;
  static constexpr T c = T(0.79788456080286535588), d = T(0.044715);
  FASTMAML_INLINE Logistic<T> tails(Vec<T> x) const {
    return logistic<T>(x * (x * x * d + T(1)) * (2 * c));
  }
  FASTMAML_INLINE Vec<T> u_slope(Vec<T> x) const { return (x * x * (3 * d) + T(1)) * c; }
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const { return x * tails(x).s; }
  FASTMAML_INLINE Vec<T> slope(Vec<T> x) const {
    const Logistic<T> l = tails(x);
    return l.s + x * l.s * l.q * u_slope(x) * T(2);
  }
  FASTMAML_INLINE Vec<T> curve(Vec<T> x) const {
    const Logistic<T> l = tails(x);
    const Vec<T> u1 = u_slope(x), u2 = x * (6 * c * d);
    return l.s * l.q * T(4) * (u1 + x * (u2 * T(0.5) - (l.s - l.q) * u1 * u1));
  }
};

template <class T>
struct Silu {
  static constexpr bool kCurved = true;
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const { return x * logistic<T>(x).s; }
  FASTMAML_INLINE Vec<T> slope(Vec<T> x) const {
    const Logistic<T> l = logistic<T>(x);
    return l.s * (x * l.q + T(1));
  }
  FASTMAML_INLINE Vec<T> curve(Vec<T> x) const {
    const Logistic<T> l = logistic<T>(x);
    return l.s * l.q * (x * (l.q - l.s) + T(2));
  }
};

template <class T>
struct Softplus {
  static constexpr bool kCurved = true;
  T beta, threshold;
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const {
    const Vec<T> u = x * beta;
    return select<T>(u > threshold, x, softplus<T>(u) / beta);
  }
  FASTMAML_INLINE Vec<T> slope(Vec<T> x) const {
    const Vec<T> u = x * beta;
    return select<T>(u > threshold, splat<T>(1), logistic<T>(u).s);
  }
  FASTMAML_INLINE Vec<T> curve(Vec<T> x) const {
    const Vec<T> u = x * beta;
    const Logistic<T> l = logistic<T>(u);
    return select<T>(u < threshold, l.s * l.q * beta, splat<T>(0));
  }
};

template <class T>
struct Tanh {
  static constexpr bool kCurved = true;
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const { return tanh<T>(x); }
  FASTMAML_INLINE Vec<T> slope(Vec<T> y) const { return T(1) - y * y; }
  FASTMAML_INLINE Vec<T> curve(Vec<T> y) const { return y * T(-2) * (T(1) - y * y); }
};

template <class T>
struct Sigmoid {
  static constexpr bool kCurved = true;
  FASTMAML_INLINE Vec<T> value(Vec<T> x) const { return logistic<T>(x).s; }
  FASTMAML_INLINE Vec<T> slope(Vec<T> y) const { return y * (T(1) - y); }
  FASTMAML_INLINE Vec<T> curve(Vec<T> y) const { return y * (T(1) - y) * (T(1) - y * T(2)); }
};

// use(f) with the function that the arguments name.
template <class T, class Use>
FASTMAML_INLINE void with_function(const PointwiseArgs& args, Use&& use) {
  const T a = static_cast<T>(args.a), b = static_cast<T>(args.b);
  switch (args.kind) {
    case PointwiseKind::relu:
      return use(Relu<T>{});
    case PointwiseKind::leaky_relu:
      return use(LeakyRelu<T>{a});
    case PointwiseKind::elu:
      return use(Elu<T>{a});
    case PointwiseKind::gelu:
      return use(Gelu<T>{});
    case PointwiseKind::gelu_tanh:
      return use(GeluTanh<T>{});
    case PointwiseKind::silu:
      return use(Silu<T>{});
    case PointwiseKind::softplus:
      return use(Softplus<T>{a, b});
    case PointwiseKind::tanh:
      return use(Tanh<T>{});
    case PointwiseKind::sigmoid:
      return use(Sigmoid<T>{});
  }
}

}  // namespace fastmaml::FASTMAML_ISA
