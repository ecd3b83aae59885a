// Calls and plans that are ended before their end.
#include "core/poll.hpp"

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"
#include "networks.hpp"

namespace fastmaml::test {
namespace {

struct Enough {};

// Throws when it is asked for the n-th time, at every opportunity.
Poll ends_after(int n) {
  return {[n]() mutable {
            if (n-- == 0) throw Enough();
          },
          0};
}

Poll counted(int* asked) {
  return {[asked] { ++*asked; }, 0};
}

Settings settings_of(const NetworkCase& item, Mode mode) {
  Settings settings;
  settings.mode = mode, settings.factored = item.factored, settings.winograd = item.winograd;
  settings.moment_bytes = item.moment_bytes;
  settings.support_rows = 5, settings.query_rows = 4, settings.inner_steps = 2;
  return settings;
}

template <class Run>
bool was_ended(Run&& run) {
  try {
    run();
  } catch (const Enough&) {
    return true;
  }
  return false;
}

// Wherever a call can be ended, and with threads in all states there: it is, and later calls of the
// same plan, threads and place on the board find nothing of it.
template <class T>
int ends_everywhere(const NetworkCase& item, Mode mode, int threads) {
  Problem<T> problem(item.network, settings_of(item, mode), 6, 3);
  const Plan plan(problem.network, problem.settings);
  const auto expected = problem.run(plan, 1);
  int asked = 0, ended = 0;
  problem.poll = counted(&asked);
  CHECK(problem.run(plan, threads) == expected);
  // Of several threads the caller asks as often as it comes to, which may be never.
  CHECK(asked >= 2 || threads > 1, item.name, ": asked ", asked, " times");
  for (int n = 0; n < asked; n += 1 + asked / 8) {
    problem.poll = ends_after(n);
    const bool ends = was_ended([&] { problem.run(plan, threads); });
    CHECK(ends || threads > 1, item.name, ", after ", n, " of ", asked);
    ended += ends;
    problem.poll = {};
    CHECK(problem.run(plan, threads, 0xff) == expected, item.name, ", after ", n);
  }
  return ended;
}

// Sections, instructions that ask for phases, weights in both forms.
std::vector<NetworkCase> some_cases() {
  const std::set<std::string> names{"batch_norm, plain", "norms whose rows threads share",
                                    "Winograd's convolutions, tiles of 5", "mse, dense",
                                    "cross_entropy, factored"};
  std::vector<NetworkCase> cases = network_cases();
  std::erase_if(cases, [&](const NetworkCase& item) { return !names.contains(item.name); });
  return cases;
}

TEST(a_call_ends_where_it_is_told_to) {
  CHECK(some_cases().size() >= 5);
  for (const int threads : {1, 2, 3, 7}) {
    int ended = 0;
    for (const NetworkCase& item : some_cases())
      for (Mode mode : {Mode::meta_step, Mode::adapt})
        ended += ends_everywhere<float>(item, mode, threads);
    CHECK(ended > 10, threads, " threads: ", ended);
  }
}

TEST(a_profiled_call_ends_where_it_is_told_to) {
  const NetworkCase item = network_cases().front();
  Problem<double> problem(item.network, settings_of(item, Mode::meta_step), 6, 3);
  const Plan plan(problem.network, problem.settings);
  problem.poll = ends_after(1);
  std::vector<InstructionTime> times;
  CHECK(was_ended([&] { problem.run(plan, 1, 0, &times); }));
  CHECK(times.empty());
}

TEST(only_the_caller_is_asked) {
  const NetworkCase item = network_cases().front();
  Problem<float> problem(item.network, settings_of(item, Mode::meta_step), 40, 3);
  const Plan plan(problem.network, problem.settings);
  std::atomic<bool> elsewhere{false};
  problem.poll = {[&, caller = std::this_thread::get_id()] {
                    if (std::this_thread::get_id() != caller) elsewhere = true;
                  },
                  0};
  for (int call = 0; call < 20; ++call) problem.run(plan, 4);
  CHECK(!elsewhere);
}

// Calls from several threads at the same time, some of which end early, share the workers.
TEST(a_call_that_ends_early_leaves_others_alone) {
  const NetworkCase item = network_cases().front();
  Problem<float> problem(item.network, settings_of(item, Mode::meta_step), 40, 3);
  problem.all_threads = false;
  const Plan plan(problem.network, problem.settings);
  const auto expected = problem.run(plan, 1);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&, caller] {
      Problem<float> own = problem;
      for (int call = 0; call < 200; ++call) {
        const bool ends = (caller + call) % 2 == 0;
        own.poll = ends ? ends_after(call % 7) : Poll{};
        if (!was_ended([&] { wrong += own.run(plan, 3) != expected; })) continue;
        wrong += !ends;
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0, wrong.load());
}

TEST(a_poll_is_asked_about_as_often_as_it_says) {
  int asked = 0;
  const Poll poll{[&] { ++asked; }, 3600};
  Poller poller(poll);
  for (int i = 0; i < 1000; ++i) poller();
  CHECK(asked == 0);
}

TEST(a_plan_is_given_up_where_it_is_told_to) {
  for (const NetworkCase& item : some_cases()) {
    const Settings settings = settings_of(item, Mode::meta_step);
    int asked = 0;
    const Plan whole(item.network, settings, counted(&asked));
    CHECK(asked > 2 * settings.inner_steps, item.name, ": each step, and each buffer's place");
    for (int n = 0; n < asked; n += 1 + asked / 12)
      CHECK(was_ended([&] { const Plan plan(item.network, settings, ends_after(n)); }), n);
  }
}

}  // namespace
}  // namespace fastmaml::test
