// The division of csrc/cuda/divisor.hpp against the language's own.
#include "cuda/divisor.hpp"

#include <limits>
#include <random>

#include "check.hpp"
#include "core/error.hpp"

namespace fastmaml::test {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

bool exact(const Divisor& divisor, int64_t by, int64_t n) {
  const auto number = static_cast<int32_t>(n);
  const int32_t quotient = divisor.quotient(number);
  return quotient == n / by && divisor.remainder(number, quotient) == n % by;
}

// Where the quotient changes and at the ends of the range, then anywhere.
bool exact(int64_t by, std::mt19937_64& generator) {
  const Divisor divisor(by);
  bool all = true;
  for (const int64_t multiple : {int64_t{0}, by, kLargest / by * by})
    for (int64_t n = multiple - 1; n <= multiple + 1; ++n)
      if (n >= 0 && n <= kLargest) all = all && exact(divisor, by, n);
  all = all && exact(divisor, by, kLargest);
  std::uniform_int_distribution<int64_t> number(0, kLargest);
  for (int i = 0; i < 100; ++i) all = all && exact(divisor, by, number(generator));
  return all;
}

TEST(a_divisor_is_exact_below_2_to_the_31) {
  std::mt19937_64 generator(3);
  for (int64_t by = 1; by < 4096; ++by) CHECK(exact(by, generator));
  for (int shift = 12; shift < 31; ++shift)
    for (int64_t by = (int64_t{1} << shift) - 1; by <= (int64_t{1} << shift) + 1; ++by)
      CHECK(exact(by, generator));
  CHECK(exact(kLargest, generator));
}

}  // namespace
}  // namespace fastmaml::test
