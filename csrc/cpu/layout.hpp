// How one call is cut up: rounds, pieces, lanes, and where each part of the workspace lies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/program.hpp"

namespace fastmaml {

struct Step {
  int kind;                // index of the alternative in Args, and of its kernel
  int phases = 1;          // parts of a team do them one after another, task by task
  const void* args;        // the program's
  double nanoseconds = 0;  // of one task on one thread, estimated
};

// The program's instructions as the executor walks them.
struct Schedule {
  std::vector<Step> prologue, body, commit, epilogue;
  bool any_phases = false;      // whether a step has more than one
  double body_nanoseconds = 0;  // of one task
  explicit Schedule(const Program& program);
  size_t bytes() const;  // that the lists hold
};

// Sizes in bytes; `round` depends on the plan and on T alone.
struct Layout {
  int64_t round = 1;  // tasks of a round
  int64_t group = 1;  // most tasks that go through the body together
  int64_t least = 1;  // fewest that are worth it
  int threads = 1;    // more would find nothing to do
  int lanes = 1;
  size_t scalars = 0, shared = 0, keep = 0, transients = 0, transient = 0, members = 0, member = 0,
         lane_states = 0, lane_state = 0, scratch = 0, scratch_each = 0, team_scratch = 0,
         total = 0;  // offsets; the singular ones, and `scratch_each`: size for one

  // Tasks of the next group, where `left` of the round's wait for one of `threads` threads.
  int64_t piece(int64_t left, int threads) const;
};

// `lanes`: at most so many, 0 for as many as threads.
Layout plan_layout(const Program& program, const Schedule& schedule, int64_t tasks, int threads,
                   int lanes);

}  // namespace fastmaml
