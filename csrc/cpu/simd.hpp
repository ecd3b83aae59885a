// One native vector of the instruction set this file is compiled for.
//
// Arithmetic uses the compiler's vector extensions (+, *, comparisons); what they lack is here:
// unaligned, partial and broadcast access, and horizontal sums. Everything lives in the namespace
// of the instruction set (FASTMAML_ISA), so that no function compiled for one is linked into
// another, and nothing here calls a library template.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define FASTMAML_INLINE inline __attribute__((always_inline))

namespace fastmaml::FASTMAML_ISA {

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float loose __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double loose __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef int64_t bits __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
using Bits = typename VectorOf<T>::bits;  // what comparisons give: all ones where true
template <class T>
constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
FASTMAML_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::loose*>(p);
}
template <class T>
FASTMAML_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VectorOf<T>::loose*>(p) = v;
}
constexpr int kLineBytes = 64;
// Asks for a cache line ahead of its use. To the second-level cache: the few misses that the first
// level can have under way are left to what is used now. (Transforms that read from memory took 1.4
// times as long with fetches to the first level.)
FASTMAML_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }

template <class T>
FASTMAML_INLINE Vec<T> splat(T value) {
  return value - Vec<T>{};  // x - 0 keeps the sign of zero and NaN
}
// mask ? a : b, lane by lane.
template <class T>
FASTMAML_INLINE Vec<T> select(Bits<T> mask, Vec<T> a, Vec<T> b) {
  return mask ? a : b;
}

// The first n lanes (1 <= n <= width); the others load as zero and are never stored.
template <class T>
struct Tail {
  int n;
  FASTMAML_INLINE explicit Tail(int lanes) : n(lanes) {}
  FASTMAML_INLINE Vec<T> load(const T* p) const {
    Vec<T> v{};
    std::memcpy(&v, p, static_cast<size_t>(n) * sizeof(T));
    return v;
  }
  FASTMAML_INLINE void store(T* p, Vec<T> v) const {
    std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(T));
  }
};

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
template <>
struct Tail<float> {
  __mmask16 mask;
  FASTMAML_INLINE explicit Tail(int lanes) : mask(static_cast<__mmask16>((1u << lanes) - 1u)) {}
  FASTMAML_INLINE Vec<float> load(const float* p) const {
    return (Vec<float>)_mm512_maskz_loadu_ps(mask, p);
  }
  FASTMAML_INLINE void store(float* p, Vec<float> v) const {
    _mm512_mask_storeu_ps(p, mask, (__m512)v);
  }
};
template <>
struct Tail<double> {
  __mmask8 mask;
  FASTMAML_INLINE explicit Tail(int lanes) : mask(static_cast<__mmask8>((1u << lanes) - 1u)) {}
  FASTMAML_INLINE Vec<double> load(const double* p) const {
    return (Vec<double>)_mm512_maskz_loadu_pd(mask, p);
  }
  FASTMAML_INLINE void store(double* p, Vec<double> v) const {
    _mm512_mask_storeu_pd(p, mask, (__m512d)v);
  }
};
#elif defined(__AVX2__) && defined(__FMA__)
template <>
struct Tail<float> {
  __m256i mask;
  FASTMAML_INLINE explicit Tail(int lanes)
      : mask(_mm256_cmpgt_epi32(_mm256_set1_epi32(lanes),
                                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
  FASTMAML_INLINE Vec<float> load(const float* p) const {
    return (Vec<float>)_mm256_maskload_ps(p, mask);
  }
  FASTMAML_INLINE void store(float* p, Vec<float> v) const {
    _mm256_maskstore_ps(p, mask, (__m256)v);
  }
};
template <>
struct Tail<double> {
  __m256i mask;
  FASTMAML_INLINE explicit Tail(int lanes)
      : mask(_mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), _mm256_setr_epi64x(0, 1, 2, 3))) {}
  FASTMAML_INLINE Vec<double> load(const double* p) const {
    return (Vec<double>)_mm256_maskload_pd(p, mask);
  }
  FASTMAML_INLINE void store(double* p, Vec<double> v) const {
    _mm256_maskstore_pd(p, mask, (__m256d)v);
  }
};
#endif

// Half a vector, where the instruction set has masked halves (kHasHalf).
template <class T>
struct HalfOf {
  typedef T type __attribute__((vector_size(kVectorBytes / 2)));
};
template <class T>
using Half = typename HalfOf<T>::type;

template <class T>
FASTMAML_INLINE Half<T> low_half(Vec<T> v) {
  Half<T> low;
  std::memcpy(&low, &v, sizeof low);
  return low;
}

template <class T>
struct HalfTail {
  FASTMAML_INLINE explicit HalfTail(int) {}
  FASTMAML_INLINE Half<T> load(const T*) const { return Half<T>{}; }
  FASTMAML_INLINE void store(T*, Half<T>) const {}
};

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
constexpr bool kHasHalf = true;
template <>
struct HalfTail<float> {
  __mmask8 mask;
  FASTMAML_INLINE explicit HalfTail(int lanes) : mask(static_cast<__mmask8>((1u << lanes) - 1u)) {}
  FASTMAML_INLINE Half<float> load(const float* p) const {
    return (Half<float>)_mm256_maskz_loadu_ps(mask, p);
  }
  FASTMAML_INLINE void store(float* p, Half<float> v) const {
    _mm256_mask_storeu_ps(p, mask, (__m256)v);
  }
};
template <>
struct HalfTail<double> {
  __mmask8 mask;
  FASTMAML_INLINE explicit HalfTail(int lanes) : mask(static_cast<__mmask8>((1u << lanes) - 1u)) {}
  FASTMAML_INLINE Half<double> load(const double* p) const {
    return (Half<double>)_mm256_maskz_loadu_pd(mask, p);
  }
  FASTMAML_INLINE void store(double* p, Half<double> v) const {
    _mm256_mask_storeu_pd(p, mask, (__m256d)v);
  }
};
#else
constexpr bool kHasHalf = false;
#endif

// The sum of all lanes, in a fixed tree of halves.
template <class T, int kLanes>
struct Sum {
  typedef T V __attribute__((vector_size(kLanes * sizeof(T))));
  typedef T HalfV __attribute__((vector_size(kLanes * sizeof(T) / 2)));
  static FASTMAML_INLINE T of(V v) {
    HalfV parts[2];
    std::memcpy(parts, &v, sizeof v);
    return Sum<T, kLanes / 2>::of(parts[0] + parts[1]);
  }
};
template <class T>
struct Sum<T, 2> {
  typedef T V __attribute__((vector_size(2 * sizeof(T))));
  static FASTMAML_INLINE T of(V v) { return v[0] + v[1]; }
};
template <class T>
FASTMAML_INLINE T sum(Vec<T> v) {
  return Sum<T, kWidth<T>>::of(v);
}

// Calls whole(i) for each whole vector of [begin, end), then rest(i, tail) for what is left, if
// any.
template <class T, class Whole, class Rest>
FASTMAML_INLINE void each_vector(int64_t begin, int64_t end, Whole&& whole, Rest&& rest) {
  int64_t i = begin;
  for (; i + kWidth<T> <= end; i += kWidth<T>) whole(i);
  if (i < end) rest(i, Tail<T>(static_cast<int>(end - i)));
}

}  // namespace fastmaml::FASTMAML_ISA
