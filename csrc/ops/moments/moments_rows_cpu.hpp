// moments on the CPU: of rows that lie in a cache, some vectors of channels at a time.
#pragma once

#include "cpu/lanes.hpp"
#include "ops/batch_norm/norm_formulas.hpp"
#include "ops/moments/moments.hpp"

namespace fastmaml::FASTMAML_ISA {

// The mean and the summed squared deviations of `count` more rows, merged into those of the `seen`
// rows before them as in Chan, Golub, LeVeque 1979: nothing cancels.
template <class T>
FASTMAML_INLINE NormPair<T> merge_moments(const NormPair<T>& all, int64_t seen,
                                          const NormPair<T>& more, int64_t count) {
  if (seen == 0) return more;
  const Vec<T> apart = more.one - all.one;
  const T share = static_cast<T>(count) / static_cast<T>(seen + count);
  return {all.one + apart * splat<T>(share),
          all.two + (more.two + apart * apart * splat<T>(share * static_cast<T>(seen)))};
}

// The moments of `count` rows, `row` numbers apart, of kVectors vectors of channels: so many sums
// under way hide the time that each addition takes. means and squares are kept apart by `features`.
template <class T, int kVectors>
FASTMAML_INLINE void write_moments_of(const T* x, int64_t row, int64_t count, T* to,
                                      int64_t features, Lanes<T> l) {
  constexpr int W = kWidth<T>;
  Vec<T> sum[kVectors], squares[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sum[v] = squares[v] = splat<T>(0);
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
      squares[v] += d * d;
    }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    l.store(to + v * W, sum[v]);
    l.store(to + features + v * W, squares[v]);
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
