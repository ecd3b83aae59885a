// What a program itself holds: the same for every inner step, and what repeats once.
#include "plan/footprint.hpp"

#include "check.hpp"
#include "core/error.hpp"
#include "networks.hpp"

namespace fastmaml::test {
namespace {

Settings settings_of(int steps) {
  Settings settings;
  settings.support_rows = 5, settings.query_rows = 4, settings.inner_steps = steps;
  settings.factored = 0;  // a factored weight's terms are those of all earlier steps
  return settings;
}

size_t bytes_of(const NetworkSpec& network, int steps) {
  return Plan(network, settings_of(steps)).program_bytes();
}

TEST(every_inner_step_adds_the_same_bytes) {
  for (const NetworkCase& item : network_cases()) {
    const auto of = [&](int steps) { return static_cast<int64_t>(bytes_of(item.network, steps)); };
    const int64_t few = of(4), more = of(8), most = of(16), slack = 128;  // whole grains of blocks
    CHECK(few < more, item.name);
    CHECK(std::abs((most - more) - 2 * (more - few)) <= slack, item.name, ": ", few, ", ", more,
          ", ", most);
  }
}

TEST(the_map_of_a_window_is_counted_once) {
  const auto network = [](int layers) {
    Builder b({1, 120, 120});
    int x = 0;
    for (int i = 0; i < layers; ++i) x = b.conv2d(x, 1, 3, 1, 1);
    return b.finish(x, "mse");
  };
  Settings settings = settings_of(1);
  settings.winograd = 0;
  const size_t map = 120 * 120 * sizeof(PixelPair);
  const size_t two = Plan(network(2), settings).program_bytes();
  const size_t eight = Plan(network(8), settings).program_bytes();
  CHECK(two > 2 * map, "there and back: ", two);
  CHECK(eight - two < 2 * map, two, " and ", eight);
}

TEST(a_program_that_outgrows_its_bound_is_not_finished) {
  const NetworkCase item = network_cases().front();
  Settings settings = settings_of(50);
  settings.most_bytes = static_cast<int64_t>(bytes_of(item.network, 50));
  CHECK(Plan(item.network, settings).program_bytes() > 0);
  settings.most_bytes /= 4;
  CHECK_THROWS(SettingError, "the program of inner_steps=50 must have at most",
               Plan(item.network, settings));
}

}  // namespace
}  // namespace fastmaml::test
