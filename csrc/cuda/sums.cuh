// Sums of numbers of which there may be very many (see ops/long_sum.hpp), shared out among threads.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/scalar.cuh"
#include "ops/long_sum.hpp"

namespace fastmaml::device {

// The sum of term(i) over what member `lane` of kLanes has of the numbers below n, every kLanes-th:
// in 32 bits, as no device holds more. So many terms are under way at a time: few of long ones.
template <class T, int kLanes, int kAtOnce = 4, class Term>
FASTMAML_DEVICE T sum_share(int lane, int64_t n, Term&& term) {
  auto left = (static_cast<int32_t>(n) - lane + kLanes - 1) / kLanes;
  const int32_t most = left > kChain ? kShortChain : kChain;
  LongSum<T> all;
  for (int32_t i = lane; left > 0; left -= most) {
    const int32_t count = left < most ? left : most;
    T chain = 0;
#pragma unroll kAtOnce
    for (int32_t k = 0; k < count; ++k, i += kLanes) chain += term(i);
    all.add(chain);
  }
  return all.value();
}

}  // namespace fastmaml::device
