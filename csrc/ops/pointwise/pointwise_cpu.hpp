// pointwise on the CPU: one struct for each function, and the four passes derived from it.
//
// A function gives value(x), slope(z) and curve(z), where z is x or y (see pointwise.hpp). Tasks
// whose numbers touch are one long vector.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "cpu/math.hpp"
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

// One task's operands, or those of all tasks where they touch; null where absent.
template <class T>
struct PointwiseMemory {
  const T *z, *y_bar, *x_dot, *y_bar_dot, *cin;
  T* out;

  PointwiseMemory(const PointwiseArgs& args, const Context& context, int64_t task)
      : z(address_or_null<T>(context, args.z, task)),
        y_bar(address_or_null<T>(context, args.y_bar, task)),
        x_dot(address_or_null<T>(context, args.x_dot, task)),
        y_bar_dot(address_or_null<T>(context, args.y_bar_dot, task)),
        cin(address_or_null<T>(context, args.cin, task)),
        out(address_or_null<T>(context, args.out, task)) {}
};

template <class T, class F>
void run_range(const F& f, PassKind pass, const PointwiseMemory<T>& m, int64_t begin, int64_t end) {
  switch (pass) {
    case PassKind::forward:
      for_lanes<T>(begin, end,
                   [&](int64_t i, Lanes<T> l) { l.store(m.out + i, f.value(l.load(m.z + i))); });
      break;
    case PassKind::backward:
    case PassKind::forward_jvp: {
      const T* in = pass == PassKind::backward ? m.y_bar : m.x_dot;
      for_lanes<T>(begin, end, [&](int64_t i, Lanes<T> l) {
        Vec<T> out = f.slope(l.load(m.z + i)) * l.load(in + i);
        if (m.cin) out += l.load(m.cin + i);
        l.store(m.out + i, out);
      });
      break;
    }
    case PassKind::backward_jvp:
      for_lanes<T>(begin, end, [&](int64_t i, Lanes<T> l) {
        const Vec<T> z = l.load(m.z + i);
        Vec<T> out = f.slope(z) * l.load(m.y_bar_dot + i);
        if constexpr (F::kCurved) out += f.curve(z) * l.load(m.x_dot + i) * l.load(m.y_bar + i);
        if (m.cin) out += l.load(m.cin + i);
        l.store(m.out + i, out);
      });
      break;
  }
}

template <class T, class F>
void run_pointwise(const F& f, const PointwiseArgs& args, const Context& context) {
  bool touching = true;
  for (const Operand* o :
       {&args.z, &args.y_bar, &args.x_dot, &args.y_bar_dot, &args.cin, &args.out})
    touching = touching && (!*o || o->stride == args.n);
  const int64_t total = context.tasks * args.n, n = touching ? total : args.n;
  const Share share(context, total, kWidth<T>);
  for (int64_t i = share.begin; i < share.end;) {
    const int64_t task = i / n, begin = i - task * n;
    const int64_t end = share.end - task * n < n ? share.end - task * n : n;
    run_range<T>(f, args.pass, PointwiseMemory<T>(args, context, task), begin, end);
    i = task * n + end;
  }
}

template <class T>
void run_kernel(const PointwiseArgs& args, const Context& context) {
  const T a = static_cast<T>(args.a), b = static_cast<T>(args.b);
  switch (args.kind) {
    case PointwiseKind::relu:
      return run_pointwise<T>(Relu<T>{}, args, context);
    case PointwiseKind::leaky_relu:
      return run_pointwise<T>(LeakyRelu<T>{a}, args, context);
    case PointwiseKind::elu:
      return run_pointwise<T>(Elu<T>{a}, args, context);
    case PointwiseKind::gelu:
      return run_pointwise<T>(Gelu<T>{}, args, context);
    case PointwiseKind::gelu_tanh:
      return run_pointwise<T>(GeluTanh<T>{}, args, context);
    case PointwiseKind::silu:
      return run_pointwise<T>(Silu<T>{}, args, context);
    case PointwiseKind::softplus:
      return run_pointwise<T>(Softplus<T>{a, b}, args, context);
    case PointwiseKind::tanh:
      return run_pointwise<T>(Tanh<T>{}, args, context);
    case PointwiseKind::sigmoid:
      return run_pointwise<T>(Sigmoid<T>{}, args, context);
  }
}

}  // namespace fastmaml::FASTMAML_ISA
