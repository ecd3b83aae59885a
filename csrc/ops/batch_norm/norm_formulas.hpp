// What the cards of the norms say of one number: the formulas of a normalised set.
// `Vec<T>` is that of whoever includes this: a vector on the CPU, a number on a device.
#pragma once

namespace fastmaml::FASTMAML_ISA {

// Two sums over a set, or their means: m1 and m2, n1 and n2, or m1_dot and m2_dot.
template <class T>
struct NormPair {
  Vec<T> one, two;
  FASTMAML_INLINE NormPair& operator+=(const NormPair& other) {
    one += other.one, two += other.two;
    return *this;
  }
  FASTMAML_INLINE NormPair operator*(T by) const { return {one * by, two * by}; }
};

template <class T>
struct NormSet {
  Vec<T> mean, rstd;
  FASTMAML_INLINE Vec<T> h(Vec<T> x) const { return (x - mean) * rstd; }
  FASTMAML_INLINE Vec<T> h_dot(Vec<T> x_dot, Vec<T> h, const NormPair<T>& n) const {
    return rstd * (x_dot - n.one - h * n.two);
  }
  // What is left of a cotangent d of h behind the statistics; its tangent.
  FASTMAML_INLINE static Vec<T> centred(Vec<T> d, Vec<T> h, const NormPair<T>& m) {
    return d - m.one - h * m.two;
  }
  FASTMAML_INLINE static Vec<T> centred_dot(Vec<T> d_dot, Vec<T> h, Vec<T> h_dot,
                                            const NormPair<T>& m, const NormPair<T>& m_dot) {
    return d_dot - m_dot.one - h_dot * m.two - h * m_dot.two;
  }
};

// The slope that follows a norm, `below` where it is not 1. torch's ReLU lets the cotangent of a
// NaN through, its leaky ReLU scales it.
template <class T>
struct NormGate {
  T below;
  // The activation of y where `kept` (y itself, or a tangent or cotangent of it) is what it keeps
  // above 0.
  FASTMAML_INLINE Vec<T> of(Vec<T> y, Vec<T> kept) const {
    if (below == 0) return select<T>(y <= splat<T>(0), splat<T>(0), kept);
    return select<T>(y > splat<T>(0), kept, kept * below);
  }
};

}  // namespace fastmaml::FASTMAML_ISA
