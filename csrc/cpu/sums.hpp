// Sums of numbers of which there may be very many (see ops/long_sum.hpp): over any terms, and over
// the numbers of an array.
//
// Kernels with many short sums have code of their own for them, kLong being false: what long ones
// need would make them slower.
#pragma once

#include "cpu/lanes.hpp"
#include "ops/long_sum.hpp"

namespace fastmaml::FASTMAML_ISA {

// The sum over [0, n), where chain(begin, end) is the plain one over a part of it and a term has
// `each` numbers.
template <class T, bool kLong, class Chain>
FASTMAML_INLINE Vec<T> sum_in_chains(int64_t n, int64_t each, Chain&& chain) {
  if constexpr (!kLong) return chain(int64_t{0}, n);
  LongSum<T> all;
  each_chain(n, each * (n > kChain * each ? kShortChain : kChain),
             [&](int64_t begin, int64_t end) { all.add(chain(begin, end)); });
  return all.value();
}

// The sum of term(i, lanes) over the vectors that cover [0, n), of all their lanes.
template <class T, bool kLong = true, class Term>
FASTMAML_INLINE T sum_lanes(int64_t n, Term&& term) {
  return sum<T>(sum_in_chains<T, kLong>(n, kWidth<T>, [&](int64_t begin, int64_t end) {
    Vec<T> total = splat<T>(0);
    for_lanes<T>(begin, end, [&](int64_t i, Lanes<T> l) { total += term(i, l); });
    return total;
  }));
}

}  // namespace fastmaml::FASTMAML_ISA
