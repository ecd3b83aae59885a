// Loops over numbers that compute a whole vector and the rest at the end by the same code.
//
// `Lanes` is a vector's worth of places of which the first n count. Only loads and stores ask for
// n, so that a number's result cannot depend on whether its neighbours exist.
#pragma once

#include "cpu/context.hpp"
#include "cpu/simd.hpp"

namespace fastmaml::FASTMAML_ISA {

// 0, 1, 2, ...
template <class T>
FASTMAML_INLINE Vec<T> count_up() {
  Vec<T> v{};
  for (int i = 0; i < kWidth<T>; ++i) v[i] = static_cast<T>(i);
  return v;
}

template <class T>
struct Lanes {
  int n;  // 1 <= n <= width

  FASTMAML_INLINE Vec<T> load(const T* p) const {
    return n == kWidth<T> ? FASTMAML_ISA::load<T>(p) : Tail<T>(n).load(p);
  }
  // p[i], ..., or `otherwise` where p is null.
  FASTMAML_INLINE Vec<T> load_or(const T* p, int64_t i, T otherwise) const {
    return p ? load(p + i) : splat<T>(otherwise);
  }
  FASTMAML_INLINE void store(T* p, Vec<T> v) const {
    if (n == kWidth<T>)
      FASTMAML_ISA::store<T>(p, v);
    else
      Tail<T>(n).store(p, v);
  }
  // v, with `otherwise` in the lanes that do not count: for sums and maxima over lanes.
  FASTMAML_INLINE Vec<T> only(Vec<T> v, T otherwise) const {
    if (n == kWidth<T>) return v;
    return select<T>(count_up<T>() < static_cast<T>(n), v, splat<T>(otherwise));
  }
};

// body(i, lanes) for the vectors that cover [begin, end), i being the first place of each.
template <class T, class Body>
FASTMAML_INLINE void for_lanes(int64_t begin, int64_t end, Body&& body) {
  for (int64_t i = begin; i < end; i += kWidth<T>) {
    const int64_t left = end - i;
    body(i, Lanes<T>{left < kWidth<T> ? static_cast<int>(left) : kWidth<T>});
  }
}

// The operand's address, or null where it is absent.
template <class T>
FASTMAML_INLINE T* address_or_null(const Context& context, const Operand& o, int64_t task) {
  return o ? address<T>(context, o, task) : nullptr;
}

}  // namespace fastmaml::FASTMAML_ISA
