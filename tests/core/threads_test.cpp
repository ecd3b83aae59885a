// Who works on a call: parts are taken once, nobody waits for one who has not begun, and a thread
// that is stuck holds up the part it has and no other.
#include <sched.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/crew.hpp"
#include "core/error.hpp"
#include "core/processors.hpp"
#include "cpu/pace.hpp"
#include "networks.hpp"

namespace fastmaml::test {
namespace {

const auto kAlways = [] { return true; };

TEST(a_part_is_taken_once_and_the_wanted_one_first) {
  Stage stage;
  CHECK(stage.take(0, kAlways) == -1, "before the first stage");
  stage.open(3);
  CHECK(stage.take(0, [] { return false; }) == -1, "what is not valid is not taken");
  CHECK(stage.take(4, kAlways) == 1);
  CHECK(stage.take(1, kAlways) == 0);
  CHECK(stage.has_free_parts());
  CHECK(stage.take(0, kAlways) == 2);
  CHECK(!stage.has_free_parts());
  CHECK(stage.take(0, kAlways) == -1);
  CHECK(stage.parts() == 3);
  CHECK(!stage.finish());
  CHECK(!stage.finish());
  CHECK(stage.finish());
  stage.open(Stage::kMostParts);
  for (int part = Stage::kMostParts; part-- > 0;) CHECK(stage.take(part, kAlways) == part);
  CHECK(stage.take(0, kAlways) == -1);
}

// Stages of changing sizes in two lanes and in common; plain memory tells whether any two parts of
// different stages ever ran at the same time.
class Relay final : public Work {
 public:
  Relay(Course& course, int rounds) : course_(course), rounds_(rounds) {}
  void begin() { course_.open_common(1); }
  void run_common(int part, int parts, int) override { common_[part] += parts; }
  void after_common() override {
    for (int& count : common_) total_ += count, count = 0;
    if (round_++ == rounds_) return course_.close();
    lanes_left_.store(2);
    for (int lane = 0; lane < 2; ++lane) {
      course_.retire(lane, false);
      left_[lane] = 5;
      course_.open_lane(lane, 1 + round_ % 4);
    }
  }
  void run_lane(int lane, int part, int parts, int) override { lanes_[lane][part] += parts; }
  void after_lane(int lane) override {
    for (int& count : lanes_[lane]) sums_[lane] += count, count = 0;
    if (--left_[lane] > 0) return course_.open_lane(lane, course_.members(lane));
    course_.retire(lane, true);
    if (lanes_left_.fetch_sub(1) == 1) course_.open_common(1 + round_ % 5);
  }
  void between() override {}
  int64_t total() const { return total_; }
  int64_t lane_total() const { return sums_[0] + sums_[1]; }
  int64_t rounds() const { return round_; }

 private:
  Course& course_;
  const int rounds_;
  int round_ = 0;
  int common_[Stage::kMostParts] = {}, lanes_[2][Stage::kMostParts] = {}, left_[2] = {};
  int64_t total_ = 0, sums_[2] = {};
  std::atomic<int> lanes_left_{0};
};

TEST(stages_follow_each_other_whoever_comes) {
  for (const bool all : {false, true})
    for (const int threads : {2, 3, 5}) {
      Posting posting(threads, all);
      CHECK(posting.threads() == threads);
      constexpr int kRounds = 300;
      Relay relay(*posting.course(), kRounds);
      posting.run(relay, 2, [&] { relay.begin(); });
      int64_t expected = 1;
      for (int round = 1; round <= kRounds; ++round) {
        const int parts = 1 + round % 5;
        expected += parts * parts;
      }
      CHECK(relay.total() == expected, relay.total(), " for ", expected);
      CHECK(relay.rounds() == kRounds + 1);
      CHECK(relay.lane_total() >= kRounds * 2 * 5);
    }
}

// Parts that some thread stays in until it is let go.
class Stuck final : public Work {
 public:
  explicit Stuck(Course& course, int parts) : course_(course), parts_(parts) {}
  void begin() { course_.open_common(parts_); }
  void run_common(int, int, int rank) override {
    if (rank == 0 || entered_.exchange(true)) return void(done_.fetch_add(1));
    while (!let_go_.load()) std::this_thread::yield();
  }
  void after_common() override { course_.close(); }
  void run_lane(int, int, int, int) override {}
  void after_lane(int) override {}
  void between() override {}
  bool entered() const { return entered_.load(); }
  int done() const { return done_.load(); }
  void let_go() { let_go_.store(true); }

 private:
  Course& course_;
  const int parts_;
  std::atomic<bool> entered_{false}, let_go_{false};
  std::atomic<int> done_{0};
};

TEST(a_stuck_thread_holds_up_its_part_alone) {
  constexpr int kParts = 6;
  Posting posting(2, true);
  Stuck work(*posting.course(), kParts);
  std::thread caller([&] { posting.run(work, 1, [&] { work.begin(); }); });
  // The caller may take all parts before the worker comes to one: then nobody is stuck.
  while (!work.entered() && work.done() < kParts) std::this_thread::yield();
  if (work.entered()) {
    while (work.done() < kParts - 1) std::this_thread::yield();
    // The worker is held, and so is this call; others are not.
    const NetworkCase item = network_cases().front();
    Settings settings;
    settings.support_rows = 5, settings.query_rows = 4, settings.inner_steps = 1;
    Problem<float> problem(item.network, settings, 40, 3);
    problem.all_threads = false;
    const auto expected = problem.run(1);
    for (int i = 0; i < 50; ++i) CHECK(problem.run(2) == expected);
  }
  work.let_go();
  caller.join();
  CHECK(work.done() >= kParts - 1);
}

// A thread that opened a call's last lane may still be there when the next call, of another number
// of lanes, is under way in the same place.
TEST(calls_of_changing_sizes_follow_each_other) {
  const NetworkCase item = network_cases().front();
  Settings settings;
  settings.support_rows = 5, settings.query_rows = 4, settings.inner_steps = 1;
  const Plan plan(item.network, settings);
  std::vector<Problem<float>> problems;
  std::vector<Problem<float>::Result> expected;
  for (int64_t tasks : {40, 3, 17, 90}) {
    problems.emplace_back(item.network, settings, tasks, 3);
    expected.push_back(problems.back().run(plan, 1));
  }
  for (int call = 0; call < 400; ++call) {
    const size_t i = static_cast<size_t>(call) % problems.size();
    problems[i].all_threads = call % 3 == 0;
    CHECK(problems[i].run(plan, 2 + call % 3) == expected[i], call);
  }
}

TEST(more_calls_than_the_board_has_places_run_alone) {
  std::vector<std::unique_ptr<Posting>> postings;
  for (int i = 0; i < 64; ++i) postings.push_back(std::make_unique<Posting>(2));
  const Posting late(2);
  CHECK(late.threads() == 1);
  CHECK(late.course() == nullptr);
  postings.clear();
  CHECK(Posting(2).threads() == 2);
}

// --- the number of threads -----------------------------------------------------------------------

// Calls until `seconds` have passed; gives the share of them that asked for `count` threads.
template <class Time>
double share_of(Pace& pace, int count, double seconds, Time&& time) {
  int64_t calls = 0, hits = 0;
  for (double passed = 0; passed < seconds; ++calls) {
    const int threads = pace.threads();
    const double took = time(threads);
    hits += threads == count;
    passed += took;
    pace.took(threads, took);
  }
  return static_cast<double>(hits) / static_cast<double>(calls);
}

TEST(calls_ask_for_the_threads_that_pay) {
  const auto scales = [](int threads) { return 3e-3 / threads; };
  const auto hurts = [](int threads) { return 2e-4 * threads; };
  const auto four = [](int threads) { return threads <= 4 ? 8e-3 / threads : 3e-3; };
  Pace first(8, 8), second(2, 2), third(16, 16);
  share_of(first, 8, 2, scales), share_of(second, 1, 2, hurts), share_of(third, 4, 2, four);
  CHECK(share_of(first, 8, 60, scales) > 0.98);
  CHECK(share_of(second, 1, 60, hurts) > 0.98);
  CHECK(share_of(third, 4, 60, four) > 0.98);
}

TEST(trials_are_few_from_the_start) {
  // A long call is a window of its own.
  const auto slow = [](int threads) { return 2.0 / threads; };
  Pace pace(2, 2);
  CHECK(share_of(pace, 2, 40, slow) > 0.9);
}

TEST(a_machine_that_gets_busy_is_noticed) {
  Pace pace(2, 2);
  const auto calm = [](int threads) { return 4e-4 / threads; };
  const auto busy = [](int threads) { return threads == 1 ? 4e-4 : 4e-3; };
  CHECK(share_of(pace, 2, 10, calm) > 0.9);
  share_of(pace, 1, 0.5, busy);
  CHECK(share_of(pace, 1, 10, busy) > 0.9);
  share_of(pace, 2, 30, calm);
  CHECK(share_of(pace, 2, 30, calm) > 0.9);
}

// --- processors ----------------------------------------------------------------------------------

TEST(affinity_counts) {
  cpu_set_t before, one;
  CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i)
    if (CPU_ISSET(i, &before)) CPU_SET(i, &one);
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
  const int alone = usable_processors();
  CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
  CHECK(alone == 1, alone);
  CHECK(usable_processors() <= CPU_COUNT(&before));
}

TEST(quotas_of_control_groups_count) {
  namespace fs = std::filesystem;
  const fs::path root = fs::temp_directory_path() / ("quota" + std::to_string(getpid()));
  const auto put = [&](const std::string& path, const std::string& text) {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  };
  const auto quota = [&] { return processor_quota(root / "groups", root / "fs"); };
  CHECK(std::isinf(quota()), "no file at all");
  put("groups", "3:cpuset:/\n0::/a/b\n");
  CHECK(std::isinf(quota()), "no limit");
  put("fs/a/b/cpu.max", "max 100000\n");
  CHECK(std::isinf(quota()), "max");
  put("fs/a/cpu.max", "250000 100000\n");
  CHECK(quota() == 2.5, "of the group above");
  put("fs/a/b/cpu.max", "50000 100000\n");
  CHECK(quota() == 0.5);
  put("groups", "4:cpu,cpuacct:/job\n");
  CHECK(std::isinf(quota()), "other hierarchy");
  put("fs/cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n");
  put("fs/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  CHECK(quota() == 3);
  put("fs/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  CHECK(std::isinf(quota()));
  put("groups", "0::nonsense\nand more\n");
  CHECK(std::isinf(quota()));
  fs::remove_all(root);
}

}  // namespace
}  // namespace fastmaml::test
