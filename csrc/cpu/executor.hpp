// Runs a program on the cores: lanes over groups of tasks, rounds, commits.
//
//   call      prologue, then rounds
//   round     as many tasks as the keep arena holds; groups handed out to lanes; then the commit
//   group     tasks that go through the body together: one instruction handles all of them
//   lane      a thread, or a team of threads when there are fewer groups than threads
//
// Nothing here knows a layer, and no result depends on how tasks were grouped or who ran them.
#pragma once

#include <vector>

#include "cpu/context.hpp"
#include "fastmaml.hpp"
#include "plan/program.hpp"

namespace fastmaml {

struct Step {
  int kind;          // index of the alternative in Args, and of its kernel
  const void* args;  // into the program's instruction
};

// The program's instructions as the executor walks them.
struct Schedule {
  std::vector<Step> prologue, body, commit, epilogue;
  explicit Schedule(const Program& program);
};

// How one call is cut up. Sizes in bytes; `round` depends on the plan and on T alone.
struct Layout {
  int64_t round = 1;   // tasks of a round
  int64_t groups = 1;  // groups of a round
  int64_t group = 1;   // tasks of the largest group
  int threads = 1, lanes = 1, team = 1;
  size_t scalars = 0, shared = 0, keep = 0, transients = 0, transient = 0, tables = 0, table = 0,
         barriers = 0, scratch = 0, total = 0;  // offsets; `transient`, `table`: size for one
};

// `lanes`: at most so many, 0 for as many as threads.
Layout plan_layout(const Program& program, int64_t tasks, int threads, int lanes);
// The kernels of the instruction set in force, by Step::kind.
const Kernel* kernels_of(Dtype dtype);
void execute(const Program& program, const Schedule& schedule, const Kernel* kernels,
             const Call& call);

}  // namespace fastmaml
