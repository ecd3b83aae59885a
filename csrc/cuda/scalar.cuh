// One number where the CPU has a vector, so that formulas written once serve both.
#pragma once

#include <cmath>

#include "cuda/device.cuh"

#define FASTMAML_ISA device
#define FASTMAML_INLINE FASTMAML_DEVICE

namespace fastmaml::device {

template <class T>
using Vec = T;

template <class T>
FASTMAML_DEVICE T splat(T value) {
  return value;
}
template <class T>
FASTMAML_DEVICE T select(bool chosen, T a, T b) {
  return chosen ? a : b;
}
template <class T>
FASTMAML_DEVICE T exp(T x) {
  return std::exp(x);
}
template <class T>
FASTMAML_DEVICE T expm1(T x) {
  return std::expm1(x);
}
template <class T>
FASTMAML_DEVICE T erf(T x) {
  return std::erf(x);
}
template <class T>
FASTMAML_DEVICE T tanh(T x) {
  return std::tanh(x);
}

// See cpu/math.hpp.
template <class T>
struct Logistic {
  T s, q;
};
template <class T>
FASTMAML_DEVICE Logistic<T> logistic(T x) {
  const T small = std::exp(-std::abs(x)), large = T(1) / (small + T(1));
  if (x >= T(0)) return {large, small * large};
  return {small * large, large};
}
template <class T>
FASTMAML_DEVICE T softplus(T x) {
  return (x < T(0) ? T(0) : x) + std::log1p(std::exp(-std::abs(x)));
}

}  // namespace fastmaml::device
