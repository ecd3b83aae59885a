// Division by a number known before the launch: a multiplication and a shift, exact for numbers
// below 2^31.
#pragma once

#include <cstdint>

namespace fastmaml {

class Divisor {
 public:
  constexpr Divisor() = default;
  // `by` from 1 to 2^31 - 1.
  constexpr explicit Divisor(int64_t by) : by_(static_cast<uint32_t>(by)) {
    while ((int64_t{1} << shift_) < by) ++shift_;
    const uint64_t beyond = (uint64_t{1} << shift_) - by_;
    multiplier_ = static_cast<uint32_t>((beyond << 32) / by_ + 1);
  }
  constexpr int32_t quotient(int32_t n) const {
    const auto u = static_cast<uint32_t>(n);
    const auto high = static_cast<uint32_t>((uint64_t{u} * multiplier_) >> 32);
    return static_cast<int32_t>((high + u) >> shift_);
  }
  constexpr int32_t remainder(int32_t n, int32_t quotient) const {
    return n - quotient * static_cast<int32_t>(by_);
  }

 private:
  uint32_t by_ = 1, multiplier_ = 1, shift_ = 0;
};

}  // namespace fastmaml
