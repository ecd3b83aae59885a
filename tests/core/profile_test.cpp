// What a profile promises: the outputs of a run, every pass under its label, and exact FLOPs.
#include <map>

#include "check.hpp"
#include "core/error.hpp"
#include "networks.hpp"

namespace fastmaml::test {
namespace {

using Times = std::vector<InstructionTime>;

Settings settings_of(Mode mode, int steps, const NetworkCase& item = {}) {
  Settings settings;
  settings.mode = mode, settings.factored = item.factored, settings.winograd = item.winograd;
  settings.moment_bytes = item.moment_bytes;
  settings.support_rows = 5, settings.query_rows = 4, settings.inner_steps = steps;
  settings.rate_grad = mode == Mode::meta_step;
  return settings;
}

TEST(a_profile_gives_the_outputs_of_a_run) {
  for (const NetworkCase& item : network_cases())
    for (Mode mode : {Mode::meta_step, Mode::evaluate, Mode::adapt}) {
      const Problem<float> problem(item.network, settings_of(mode, 2, item), 6, 3);
      const Plan plan(problem.network, problem.settings);
      Times times;
      CHECK(problem.run(plan, 1, 0xff, &times) == problem.run(plan, 2), item.name);
      double flops = 0;
      for (const InstructionTime& time : times) {
        flops += time.flops;
        CHECK(time.seconds >= 0 && !time.label.empty(), item.name, ": ", time.label);
      }
      CHECK(flops == plan.flops(6), item.name, ": ", flops, " of ", plan.flops(6));
    }
}

TEST(a_profile_takes_one_thread_whatever_the_call_says) {
  const NetworkCase item = network_cases().front();
  const Problem<float> problem(item.network, settings_of(Mode::meta_step, 1), 40, 3);
  const Plan plan(problem.network, problem.settings);
  Times one, many;
  CHECK(problem.run(plan, 1, 0, &one) == problem.run(plan, 7, 0, &many));
  CHECK(one.size() == many.size());
}

// The arithmetic of each pass in units of one product of its rows with its weight. The first layer
// has no input gradient and no input tangent.
TEST(flops_of_each_pass_are_the_necessary_ones) {
  constexpr int64_t kTasks = 3, kIn = 3, kHidden = 7, kOut = 2;
  Builder b({kIn});
  const int h = b.pointwise("tanh", b.linear(0, kHidden, false));
  const Problem<double> problem(b.finish(b.linear(h, kOut, false), "mse"),
                                settings_of(Mode::meta_step, 1), kTasks, 3);
  Times times;
  problem.run(Plan(problem.network, problem.settings), 1, 0, &times);
  std::map<std::string, double> found;
  for (const InstructionTime& time : times) found[time.label] += time.flops;
  const double first = 2.0 * kTasks * kIn * kHidden, last = 2.0 * kTasks * kHidden * kOut;
  const std::map<std::string, double> expected = {
      {"step 0 linear0.forward", 5 * first},
      {"query linear0.forward", 4 * first},
      {"step 0 linear0.backward", 5 * first},
      {"query linear0.backward", 4 * first},
      {"step 0 linear0.forward_jvp", 5 * first},
      {"step 0 linear0.backward_jvp", 5 * first},
      {"step 0 linear2.forward", 5 * last},
      {"query linear2.forward", 4 * last},
      {"step 0 linear2.backward", 5 * 2 * last},
      {"query linear2.backward", 4 * 2 * last},
      {"step 0 linear2.forward_jvp", 10 * last},
      {"step 0 linear2.backward_jvp", 20 * last},
      {"step 0 tanh1.forward", 0},
      {"query tanh1.forward", 0},
      {"step 0 tanh1.backward", 0},
      {"query tanh1.backward", 0},
      {"step 0 tanh1.forward_jvp", 0},
      {"step 0 tanh1.backward_jvp", 0},
      {"step 0 mse.backward", 0},
      {"query mse.forward", 0},
      {"query mse.backward", 0},
      {"step 0 mse.backward_jvp", 0},
  };
  for (const auto& [label, flops] : expected) {
    CHECK(found.count(label) == 1, label);
    CHECK(found[label] == flops, label, ": ", found[label], " for ", flops);
  }
}

}  // namespace
}  // namespace fastmaml::test
