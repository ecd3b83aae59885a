// What tests see of the fake runtime.
#pragma once

#include <cstddef>

namespace simt {

// The fake device: few multiprocessors, so that small tests have tasks with several blocks and
// tasks that share one.
constexpr int kMultiprocessors = 3;
constexpr size_t kMostSharedBytes = 99 * 1024;  // what a block may ask for on compute 8.6 and 12.0

struct Counts {
  long launches = 0;        // by cudaLaunchKernel
  long graphs = 0;          // instantiated
  long graph_launches = 0;  // by cudaGraphLaunch
};
Counts counts();

// Makes every stream look as if its caller were capturing it.
void set_capturing(bool on);
// Makes the next kernel that runs fail as if memory had run out.
void fail_next_launch();

}  // namespace simt
