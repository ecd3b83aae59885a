// What the executor promises: bits that depend on the inputs alone, and no memory but its own.
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "check.hpp"
#include "core/error.hpp"
#include "machine.hpp"
#include "networks.hpp"

namespace fastmaml::test {
namespace {

Settings settings_of(const NetworkCase& item, Mode mode, int steps) {
  Settings settings;
  settings.mode = mode, settings.factored = item.factored, settings.winograd = item.winograd;
  settings.moment_bytes = item.moment_bytes;
  settings.support_rows = 5, settings.query_rows = 4, settings.inner_steps = steps;
  settings.rate_grad = mode == Mode::meta_step && steps > 0;
  return settings;
}

template <class T>
void check_bits() {
  for (const NetworkCase& item : network_cases())
    for (Mode mode : {Mode::meta_step, Mode::evaluate, Mode::curve, Mode::adapt}) {
      const Problem<T> problem(item.network, settings_of(item, mode, 2), 6, 3);
      const Plan plan(problem.network, problem.settings);
      const auto expected = problem.run(plan, 1);
      for (int threads : {1, 2, 3, 7, 13})
        CHECK(problem.run(plan, threads) == expected, item.name, ", ", threads, " threads");
    }
}

TEST(threads_do_not_change_bits_of_floats) { check_bits<float>(); }
TEST(threads_do_not_change_bits_of_doubles) { check_bits<double>(); }

TEST(less_memory_does_not_change_bits) {
  for (const NetworkCase& item : network_cases()) {
    const Settings settings = settings_of(item, Mode::meta_step, 3);
    const Problem<float> problem(item.network, settings, 6, 3);
    const auto expected = problem.run();
    Problem<float> again = problem;
    again.settings.recompute = true;
    CHECK(again.run(1, 0xff) == expected, item.name, ", recomputed");
    for (int lanes : {1, 2}) {
      again.lanes = lanes;
      CHECK(again.run(4, 0xff) == expected, item.name, ", recomputed, ", lanes, " lanes");
    }
  }
}

// 0xff bytes are NaN: whatever is read before it was written shows.
TEST(nothing_is_read_before_it_was_written) {
  for (const NetworkCase& item : network_cases())
    for (int steps : {0, 1, 2}) {
      const Problem<float> problem(item.network, settings_of(item, Mode::meta_step, steps), 3, 5);
      for (int threads : {1, 2, 4})
        CHECK(problem.run(threads, 0xff) == problem.run(threads, 0), item.name, ", K = ", steps);
    }
}

TEST(a_task_does_not_depend_on_its_neighbours) {
  for (const NetworkCase& item : network_cases()) {
    const Settings settings = settings_of(item, Mode::evaluate, 2);
    const Problem<float> many(item.network, settings, 7, 9), one(item.network, settings, 1, 9);
    Problem<float> first = one;
    auto head = [](auto& part, const auto& whole) {
      part.assign(whole.begin(), whole.begin() + static_cast<int64_t>(part.size()));
    };
    head(first.support_x, many.support_x), head(first.query_x, many.query_x);
    head(first.support_y, many.support_y), head(first.query_y, many.query_y);
    head(first.support_classes, many.support_classes);
    head(first.query_classes, many.query_classes);
    first.theta = many.theta;
    CHECK(first.run(2).losses[0] == many.run(2).losses[0], item.name);
  }
}

// The curve's point k is an evaluation after k steps, to the bits: the network cases fix what a
// planner would otherwise choose by the number of steps.
TEST(a_curve_is_its_evaluations) {
  constexpr int kSteps = 3;
  for (const NetworkCase& item : network_cases()) {
    Settings settings = settings_of(item, Mode::curve, kSteps);
    if (settings.factored < 0) settings.factored = 0;
    if (settings.winograd < 0) settings.winograd = 0;
    Problem<float> problem(item.network, settings, 3, 7);
    const auto curve = problem.run(2, 0xff);
    for (int k = 0; k <= kSteps; ++k) {
      problem.settings.mode = Mode::evaluate, problem.settings.inner_steps = k;
      const auto point = problem.run(1);
      const size_t rows = point.logits.size() / static_cast<size_t>(problem.tasks);
      for (size_t t = 0; t < point.losses.size(); ++t) {
        const size_t at = t * (kSteps + 1) + static_cast<size_t>(k);
        CHECK(curve.losses[at] == point.losses[t], item.name, ", after ", k, " steps");
        for (size_t i = 0; i < rows; ++i)
          CHECK(curve.logits[at * rows + i] == point.logits[t * rows + i], item.name, ", after ", k,
                " steps");
      }
    }
  }
}

TEST(every_instruction_set_runs) {
  const std::string best = instruction_set();
  for (const NetworkCase& item : network_cases()) {
    const Problem<double> problem(item.network, settings_of(item, Mode::meta_step, 1), 3, 5);
    const auto expected = problem.run();
    for (const std::string& name : available_instruction_sets()) {
      force_instruction_set(name);
      const auto result = problem.run();
      for (size_t i = 0; i < expected.losses.size(); ++i)
        CHECK(
            std::abs(result.losses[i] - expected.losses[i]) <= 1e-13 * std::abs(expected.losses[i]),
            item.name, " on ", name);
    }
    force_instruction_set(best);
  }
  CHECK_THROWS(SettingError, "sse17", force_instruction_set("sse17"));
}

TEST(one_plan_serves_several_threads_at_once) {
  const NetworkCase item = network_cases().front();
  const Problem<float> problem(item.network, settings_of(item, Mode::meta_step, 2), 6, 3);
  const Plan plan(problem.network, problem.settings);
  const auto expected = problem.run(plan, 1);
  std::vector<int> wrong(3, 0);
  std::vector<std::thread> callers;
  for (int& count : wrong)
    callers.emplace_back([&] {
      for (int i = 0; i < 20; ++i) count += !(problem.run(plan, 1 + i % 3) == expected);
    });
  for (std::thread& caller : callers) caller.join();
  for (int count : wrong) CHECK(count == 0);
}

// ThreadSanitizer cannot follow threads that a forked child starts.
#if !defined(__SANITIZE_THREAD__)
TEST(a_forked_child_runs) {
  const NetworkCase item = network_cases().front();
  const Problem<float> problem(item.network, settings_of(item, Mode::meta_step, 2), 6, 3);
  const auto expected = problem.run(2);
  const pid_t child = fork();
  if (child == 0) _exit(problem.run(2) == expected ? 0 : 1);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status ", status);
}
#endif

}  // namespace
}  // namespace fastmaml::test
