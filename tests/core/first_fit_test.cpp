// First fit against its definition, and the work that it takes.
#include "plan/first_fit.hpp"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"

namespace fastmaml::test {
namespace {

struct Buffer {
  int first, last;
  int64_t size, offset = 0;
};

// The least offset at which the buffer overlaps none of those that live together with it.
int64_t defined(const std::vector<Buffer>& placed, const Buffer& buffer) {
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const Buffer& other : placed)
    if (other.first <= buffer.last && buffer.first <= other.last)
      taken.emplace_back(other.offset, other.offset + other.size);
  std::sort(taken.begin(), taken.end());
  int64_t offset = 0;
  for (const auto& [begin, end] : taken) {
    if (offset + buffer.size <= begin) break;
    offset = std::max(offset, end);
  }
  return offset;
}

TEST(first_fit_is_what_its_name_says) {
  std::mt19937 random(0);
  auto draw = [&](int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random);
  };
  for (int instructions : {1, 2, 3, 7, 8, 9, 100, 257})
    for (int kind = 0; kind < 4; ++kind) {
      FirstFit arena(instructions);
      std::vector<Buffer> placed;
      int64_t top = 0;
      for (int i = 0; i < 120; ++i) {
        const int first = draw(0, instructions - 1);
        // Long lives, short ones, or both; sizes that leave gaps, or few.
        const int most = kind % 2 == 0 ? instructions - 1 : std::min(instructions - 1, first + 3);
        Buffer buffer{first, draw(first, most), 16 * draw(1, kind < 2 ? 40 : 2)};
        buffer.offset = defined(placed, buffer);
        const int64_t found = arena.place(buffer.first, buffer.last, buffer.size);
        CHECK(found == buffer.offset, "buffer ", i, " of ", instructions, " instructions: ", found,
              " instead of ", buffer.offset);
        placed.push_back(buffer);
        top = std::max(top, buffer.offset + buffer.size);
      }
      CHECK(arena.top() == top);
    }
}

// The buffers of a meta-step: what a step keeps lives until the sweep comes back to it.
double lookups_for_each(int steps) {
  constexpr int kLayers = 6, kEach = 3;
  const int half = steps * kLayers, instructions = 2 * half;
  FirstFit arena(instructions);
  for (int64_t size : {256, 64, 16})
    for (int i = 0; i < half; ++i) arena.place(i, instructions - 1 - i, size + i % kLayers);
  for (int i = 0; i + kEach < instructions; ++i) arena.place(i, i + kEach, 16);
  return static_cast<double>(arena.lookups()) / (3 * half + instructions - kEach);
}

TEST(first_fit_of_ten_times_the_steps_looks_up_little_more_for_each_buffer) {
  const double few = lookups_for_each(20), many = lookups_for_each(200);
  CHECK(many < few * std::log2(200) / std::log2(20) * 1.5, few, " and ", many, " lookups");
}

}  // namespace
}  // namespace fastmaml::test
