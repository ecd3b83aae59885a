// moments on the CPU: of rows that lie in a cache, some vectors of channels at a time.
#pragma once

#include "cpu/lanes.hpp"
#include "ops/batch_norm/norm_formulas.hpp"
#include "ops/long_sum.hpp"
#include "ops/moments/moments.hpp"

namespace fastmaml::FASTMAML_ISA {

// What norms sum over rows, see NormPair. A norm takes means off its rows so that what is left sums
// to 0, and whoever multiplies it with numbers far from 0 relies on that: the error of a mean is
// one of every row, so that it is a LongSum of rows rather than of chains.
template <class T>
struct NormSums {
  LongSum<T> one;
  Vec<T> two = splat<T>(0);
  FASTMAML_INLINE NormPair<T> pair() const { return {one.value(), two}; }
};

// Sums of features, and then what a pass needs of them, in scratch: [kNormRows, line].
template <class T>
struct NormHeld {
  T* at;
  int64_t line;
  FASTMAML_INLINE NormSums<T> sums(int64_t j) const {
    return {{load(at + j), load(at + 2 * line + j)}, load(at + line + j)};
  }
  FASTMAML_INLINE NormPair<T> get(int64_t j) const { return {load(at + j), load(at + line + j)}; }
  FASTMAML_INLINE void put(int64_t j, const NormPair<T>& p) const {
    store(at + j, p.one), store(at + line + j, p.two);
  }
  FASTMAML_INLINE void put(int64_t j, const NormSums<T>& s) const {
    put(j, NormPair<T>{s.one.sum, s.two}), store(at + 2 * line + j, s.one.lost);
  }
};

// The mean and the summed squared deviations of `count` more rows, merged into those of the `seen`
// rows before them as in Chan, Golub, LeVeque 1979: nothing cancels.
template <class T>
FASTMAML_INLINE NormSums<T> merge_moments(NormSums<T> all, int64_t seen, const NormSums<T>& more,
                                          int64_t count) {
  if (seen == 0) return more;
  const Vec<T> apart = (more.one.sum - all.one.sum) + (more.one.lost - all.one.lost);
  const T share = static_cast<T>(count) / static_cast<T>(seen + count);
  all.one.add(apart * splat<T>(share));
  all.two += more.two + apart * apart * splat<T>(share * static_cast<T>(seen));
  return all;
}

// From a mean that is off, and the sums over `count` rows of the deviations from it and of their
// squares, to the moments: what the deviations sum to is what the mean is off.
template <class T>
FASTMAML_INLINE NormPair<T> moments_about(Vec<T> near, Vec<T> off, Vec<T> squares, int64_t count) {
  const Vec<T> by = off * splat<T>(1 / static_cast<T>(count));
  return {near + by, squares - off * by};
}

// The moments of `count` rows, `row` numbers apart, of kVectors vectors of channels: so many sums
// under way hide the time that each addition takes. means and squares are kept apart by `features`.
template <class T, int kVectors>
FASTMAML_INLINE void write_moments_of(const T* x, int64_t row, int64_t count, T* to,
                                      int64_t features, Lanes<T> l) {
  constexpr int W = kWidth<T>;
  Vec<T> sum[kVectors], off[kVectors], squares[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sum[v] = off[v] = squares[v] = splat<T>(0);
  for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[v] += l.load(x + i * row + v * W);
  const Vec<T> share = splat<T>(1 / static_cast<T>(count));
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sum[v] = sum[v] * share;
  for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec<T> d = l.load(x + i * row + v * W) - sum[v];
      off[v] += d, squares[v] += d * d;
    }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const NormPair<T> moments = moments_about<T>(sum[v], off[v], squares[v], count);
    l.store(to + v * W, moments.one);
    l.store(to + features + v * W, moments.two);
  }
}

// Of `n` channels of all `features`: x and to point at the first of them.
template <class T>
void write_moments(const T* x, int64_t row, int64_t count, T* to, int64_t features, int64_t n) {
  constexpr int W = kWidth<T>, kMany = 4;
  int64_t j = 0;
  for (; j + kMany * W <= n; j += kMany * W)
    write_moments_of<T, kMany>(x + j, row, count, to + j, features, {W});
  for (; j + 2 * W <= n; j += 2 * W)
    write_moments_of<T, 2>(x + j, row, count, to + j, features, {W});
  for_lanes<T>(j, n, [&](int64_t at, Lanes<T> l) {
    write_moments_of<T, 1>(x + at, row, count, to + at, features, l);
  });
}

}  // namespace fastmaml::FASTMAML_ISA
