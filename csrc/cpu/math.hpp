// Elementary functions of a vector, float and double, in the compiler's vector extensions.
//
// All are exact at 0, saturate instead of overflowing on the way, and pass NaN on. The series are
// Taylor series cut where the rest is below half a unit in the last place (ulp), so their tables
// are reciprocal factorials and odd numbers; the one fitted polynomial is named so. The largest
// errors measured over 2 million arguments, with and without fused multiply-add, stand beside each
// function: in float and in double.
#pragma once

#include "cpu/simd.hpp"

namespace fastmaml::FASTMAML_ISA {

struct Factorials {
  double of[18] = {1};
  constexpr Factorials() {
    for (int k = 1; k < 18; ++k) of[k] = of[k - 1] * k;
  }
};
constexpr Factorials kFactorial;

template <class T>
struct MathOf;
template <>
struct MathOf<float> {
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kExpMin = -104.0f, kExpMax = 89.0f;  // beyond: exp is 0, infinite
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr int kExpTerms = 7;  // 0.347^8 / 8! < 2^-27
  static constexpr int kLogTerms = 5;  // 2 * 0.172^11 / 11 < 2^-30
};
template <>
struct MathOf<double> {
  static constexpr double kRound = 6755399441055744.0;            // 1.5 * 2^52
  static constexpr double kLn2High = 6.93147180369123816490e-01;  // its last 21 bits are zero
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpMin = -746.0, kExpMax = 710.0;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr int kExpTerms = 13;  // 0.347^14 / 14! < 2^-57
  static constexpr int kLogTerms = 11;  // 2 * 0.172^23 / 23 < 2^-61
};

template <class T>
FASTMAML_INLINE Vec<T> abs(Vec<T> x) {
  return (Vec<T>)((Bits<T>)x & ~(Bits<T>)splat<T>(T(-0.0)));
}

// The magnitude of x with the sign of `sign`.
template <class T>
FASTMAML_INLINE Vec<T> copysign(Vec<T> x, Vec<T> sign) {
  const Bits<T> mask = (Bits<T>)splat<T>(T(-0.0));
  return (Vec<T>)(((Bits<T>)x & ~mask) | ((Bits<T>)sign & mask));
}

// 2^n for integers n of the normal range.
template <class T>
FASTMAML_INLINE Vec<T> power_of_two(Vec<T> n) {
  using M = MathOf<T>;
  return (Vec<T>)(((Bits<T>)(n + M::kRound) + M::kBias) << M::kMantissa);
}

template <class T>
FASTMAML_INLINE Vec<T> nearest_integer(Vec<T> x) {
  return (x + MathOf<T>::kRound) - MathOf<T>::kRound;
}

// x = n ln 2 + r with |r| <= ln(2) / 2 and m = exp(r) - 1.
template <class T>
struct ExpParts {
  Vec<T> n, m;
};

template <class T>
FASTMAML_INLINE ExpParts<T> exp_parts(Vec<T> x) {
  using M = MathOf<T>;
  const Vec<T> n = nearest_integer<T>(x * T(1.44269504088896340736));
  const Vec<T> r = (x - n * M::kLn2High) - n * M::kLn2Low;
  Vec<T> series = splat<T>(T(1 / kFactorial.of[M::kExpTerms]));
#pragma GCC unroll 16
  for (int k = M::kExpTerms - 1; k >= 2; --k) series = series * r + T(1 / kFactorial.of[k]);
  return {n, r * r * series + r};
}

template <class T>
FASTMAML_INLINE Vec<T> clamp(Vec<T> x, T low, T high) {
  x = select<T>(x < low, splat<T>(low), x);
  return select<T>(x > high, splat<T>(high), x);
}

// The largest lane. NaN lanes may be passed over.
template <class T>
FASTMAML_INLINE T largest(Vec<T> v) {
  T lane[kWidth<T>];
  __builtin_memcpy(lane, &v, sizeof v);
  for (int half = kWidth<T> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] = lane[i + half] > lane[i] ? lane[i + half] : lane[i];
  return lane[0];
}

// Errs by at most 1.1 and 1.0 ulp.
template <class T>
FASTMAML_INLINE Vec<T> exp(Vec<T> x) {
  const ExpParts<T> e = exp_parts<T>(clamp<T>(x, MathOf<T>::kExpMin, MathOf<T>::kExpMax));
  // In two factors, because 2^n itself need not be a normal number.
  const Vec<T> half = nearest_integer<T>(e.n * T(0.5));
  return (e.m + T(1)) * power_of_two<T>(half) * power_of_two<T>(e.n - half);
}

// exp(x) - 1; errs by at most 1.7 and 2.0 ulp.
template <class T>
FASTMAML_INLINE Vec<T> expm1(Vec<T> x) {
  // Below -40 the result is -1. 2^(n - 1) instead of 2^n, which may be infinite.
  const ExpParts<T> e = exp_parts<T>(clamp<T>(x, T(-40), MathOf<T>::kExpMax));
  const Vec<T> s = power_of_two<T>(e.n - T(1));
  return (s * e.m + (s - T(0.5))) * T(2);
}

// Below 0.55 from e / (e + 2), above from 1 - 2 / (e + 2), with e = exp(2 |x|) - 1. Errs by at most
// 2.4 and 2.6 ulp.
template <class T>
FASTMAML_INLINE Vec<T> tanh(Vec<T> x) {
  const Vec<T> a = abs<T>(x);
  const Vec<T> e = expm1<T>(a * T(2));
  const Bits<T> upper = a > T(0.55);
  const Vec<T> ratio = select<T>(upper, splat<T>(2), e) / (e + T(2));
  return copysign<T>(select<T>(upper, T(1) - ratio, ratio), x);
}

// log(1 + u) for 0 <= u <= 1; errs by at most 1.6 and 1.9 ulp.
template <class T>
FASTMAML_INLINE Vec<T> log1p_unit(Vec<T> u) {
  using M = MathOf<T>;
  // 1 + u = 2^n (1 + f) with f in [-0.3, 0.42], then log(1 + f) = f - s (f - odd series in s).
  const Bits<T> upper = u > T(0.41421356237309504880);
  const Vec<T> f = select<T>(upper, (u - T(1)) * T(0.5), u);
  const Vec<T> s = f / (f + T(2));
  const Vec<T> z = s * s;
  Vec<T> series = splat<T>(T(2.0 / (2 * M::kLogTerms - 1)));
#pragma GCC unroll 16
  for (int k = M::kLogTerms - 1; k >= 2; --k) series = series * z + T(2.0 / (2 * k - 1));
  const Vec<T> log_f = f - s * (f - z * series);
  return select<T>(upper, (log_f + T(0.69314718055994530942)), log_f);
}

// The two tails of the logistic function: s = 1 / (1 + exp(-x)) and q = 1 - s without cancellation;
// both err by at most 2.6 ulp.
template <class T>
struct Logistic {
  Vec<T> s, q;
};

template <class T>
FASTMAML_INLINE Logistic<T> logistic(Vec<T> x) {
  const Vec<T> small = exp<T>(-abs<T>(x));
  const Vec<T> large = T(1) / (small + T(1));
  const Bits<T> positive = x >= T(0);
  return {select<T>(positive, large, small * large), select<T>(positive, small * large, large)};
}

// max(x, 0) + log(1 + exp(-|x|)); errs by at most 1.8 and 2.1 ulp.
template <class T>
FASTMAML_INLINE Vec<T> softplus(Vec<T> x) {
  return select<T>(x < T(0), splat<T>(0), x) + log1p_unit<T>(exp<T>(-abs<T>(x)));
}

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
FASTMAML_INLINE Vec<float> sqrt(Vec<float> x) {
  return (Vec<float>)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
}
FASTMAML_INLINE Vec<double> sqrt(Vec<double> x) {
  return (Vec<double>)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
}
#elif defined(__AVX2__) && defined(__FMA__)
FASTMAML_INLINE Vec<float> sqrt(Vec<float> x) { return (Vec<float>)_mm256_sqrt_ps((__m256)x); }
FASTMAML_INLINE Vec<double> sqrt(Vec<double> x) { return (Vec<double>)_mm256_sqrt_pd((__m256d)x); }
#else
FASTMAML_INLINE Vec<float> sqrt(Vec<float> x) {
  for (int i = 0; i < kWidth<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
FASTMAML_INLINE Vec<double> sqrt(Vec<double> x) {
  for (int i = 0; i < kWidth<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}
#endif

FASTMAML_INLINE float log(float x) { return __builtin_logf(x); }
FASTMAML_INLINE double log(double x) { return __builtin_log(x); }

// -log(1 - erf(1 + b)) as a polynomial in b, for arguments from 1 to where erf rounds to 1: the
// fit that makes the largest error of erf smallest (2e-11 in float, 1.2e-18 in double).
template <class T>
struct ErfTail;
template <>
struct ErfTail<float> {
  static constexpr float kEnd = 4;
  static constexpr float kFit[] = {1.84960551006f,      2.63896751428f,   0.843107087669f,
                                   0.0415634444774f,    -0.010046362374f, 0.00201186383236f,
                                   -0.000289474362355f, 2.16764107806e-5f};
  static constexpr int kSmallTerms = 11;  // of the series below 1: 2 / sqrt(pi) / (11! 23) < 2^-29
};
template <>
struct ErfTail<double> {
  static constexpr double kEnd = 6;
  static constexpr double kFit[] = {
      1.8496055099332482565,      2.6389675142347882395,       0.8431072563586773551,
      0.041561098041798304148,    -0.010033825374306185979,    0.0019779025672732745036,
      -0.00023732247878914551458, -0.000026277882964389084394, 0.000027159129150937571924,
      -9.6089272338450219256e-6,  2.0598037506604398998e-6,    -1.429031585018106286e-7,
      -9.7529321503317290791e-8,  5.2029226564081565581e-8,    -1.4908445221093651254e-8,
      2.8633061669711438524e-9,   -3.6812895616550921735e-10,  2.880405609190881496e-11,
      -1.0385999513435774736e-12};
  static constexpr int kSmallTerms = 18;  // 2 / sqrt(pi) / (18! 37) < 2^-57
};

// Errs by at most 1.4 and 1.4 ulp.
template <class T>
FASTMAML_INLINE Vec<T> erf(Vec<T> x) {
  using E = ErfTail<T>;
  constexpr int kFitTerms = sizeof(E::kFit) / sizeof(T);
  const Vec<T> a = abs<T>(x);
  const Vec<T> b = clamp<T>(a, T(1), E::kEnd) - T(1);
  Vec<T> tail = splat<T>(E::kFit[kFitTerms - 1]);
#pragma GCC unroll 20
  for (int k = kFitTerms - 2; k >= 0; --k) tail = tail * b + E::kFit[k];
  const Vec<T> upper = T(1) - exp<T>(-tail);
  // erf(a) = a + a P(-a^2), P the series of erf(a) / a - 1, whose constant is 2 / sqrt(pi) - 1.
  constexpr double kSlope = 1.12837916709551257390;
  const Vec<T> z = -(a * a);
  Vec<T> series = splat<T>(0);
#pragma GCC unroll 20
  for (int k = E::kSmallTerms - 1; k >= 1; --k)
    series = (series + T(kSlope / (kFactorial.of[k] * (2 * k + 1)))) * z;
  const Vec<T> lower = a * (series + T(kSlope - 1)) + a;
  return copysign<T>(select<T>(a >= T(1), upper, lower), x);
}

}  // namespace fastmaml::FASTMAML_ISA
