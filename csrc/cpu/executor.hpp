// Runs a program on the cores: lanes over groups of tasks, rounds, commits.
//
//   call      prologue, then rounds, then the epilogue
//   round     as many tasks as the keep arena holds; groups handed out to lanes; then the commit
//   group     tasks that go through the body together: one instruction handles all of them
//   lane      memory for one group, and its stages: a few small instructions, taken by one thread,
//             or a part of a large one for each thread that is there
//
// Nothing here knows a layer, and no result depends on how tasks were grouped or who ran them.
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <mutex>

#include "cpu/context.hpp"
#include "cpu/layout.hpp"
#include "cpu/pace.hpp"
#include "fastmaml.hpp"
#include "plan/program.hpp"

namespace fastmaml {

// The kernels of the instruction set in force, by Step::kind.
const Kernel* kernels_of(Dtype dtype);
// What a thread and a lane keep in the workspace.
size_t member_bytes(const Program& program);
size_t lane_state_bytes();

// On `threads` threads, the caller's included, or fewer where there are no more.
void execute(const Program& program, const Schedule& schedule, const Layout& layout,
             const Kernel* kernels, const Call& call, int threads);

// What a plan remembers of its calls, by their size: the layout, and how many threads pay.
class Habits {
 public:
  struct Habit {
    explicit Habit(const Layout& cut) : layout(cut), pace(cut.threads, cut.threads) {}
    const Layout layout;
    std::mutex mutex;  // of pace
    Pace pace;
  };
  std::shared_ptr<Habit> of(const Program& program, const Schedule& schedule, int64_t tasks,
                            int threads, int lanes);

 private:
  struct Key {
    int64_t tasks;
    int threads, lanes;
    auto operator<=>(const Key&) const = default;
  };
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<Habit>> habits_;
};

}  // namespace fastmaml
