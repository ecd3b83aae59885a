// Sums of very many numbers: short chains of terms, whose totals are added up with what rounding
// takes from them. The error of one sum from end to end would grow with its terms, however many
// they are. Those of chains vanish among the many where they have either sign; but terms that are
// all alike, as behind a mean, are rounded to the same side every time, and of these a chain's
// error grows with its length. Sums of at most kChain terms are plain ones.
//
// `Vec<T>` is that of whoever includes this: a vector on the CPU, a number on a device.
#pragma once

#include <cstdint>

namespace fastmaml::FASTMAML_ISA {

constexpr int64_t kChain = 256, kShortChain = 16;

// A sum and what rounding has taken from it (Kahan 1965).
template <class T>
struct LongSum {
  Vec<T> sum = splat<T>(0), lost = splat<T>(0);
  FASTMAML_INLINE void add(Vec<T> value) {
    const Vec<T> next = sum + value;
    lost += value - (next - sum);
    sum = next;
  }
  FASTMAML_INLINE void add(const LongSum& other) { add(other.sum), lost += other.lost; }
  // An infinite sum has lost what is no number.
  FASTMAML_INLINE Vec<T> value() const {
    const Vec<T> all = sum + lost;
    return select<T>(all == all, all, sum);
  }
};

// chain(begin, end) for [0, n), in parts of `most`.
template <class Chain>
FASTMAML_INLINE void each_chain(int64_t n, int64_t most, Chain&& chain) {
  for (int64_t begin = 0; begin < n; begin += most)
    chain(begin, begin + most < n ? begin + most : n);
}

}  // namespace fastmaml::FASTMAML_ISA
