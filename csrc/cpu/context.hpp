// What a kernel is given: the memory of a group of tasks and its share of the work.
//
// A kernel handles `tasks` tasks. It may be called in `size` parts, each with its `rank`, by
// threads at the same time or by one thread after another, in any order; the parts split the
// outputs among them. How the outputs are split must not change a bit of any output. What all parts
// need, or the shares of a sum that they add up, is made in the team's scratch in an earlier phase:
// an instruction that asks for phases is called once for each phase of each task, and all parts of
// one are done before the next begins. Where one thread has it all, it is called once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/operand.hpp"

namespace fastmaml {

struct Context {
  char* const* base = nullptr;        // by space
  const int64_t* capacity = nullptr;  // by space: tasks an arena holds, 1 outside arenas
  const int64_t* first = nullptr;     // by space: index of the group's first task there
  const void* scalars = nullptr;      // of the plan's dtype, see Scalars
  int64_t tasks = 0;
  int rank = 0, size = 1;
  char* scratch = nullptr;       // of this thread, kScratchBytes or what the program asks for
  char* team_scratch = nullptr;  // of the lane in a phase, else this thread's again
  int phase = -1;                // of all tasks' one after another; -1: all at once
};

constexpr size_t kScratchBytes = 512 * 1024;

// The part [begin, end) of [0, count) that thread `rank` of `size` takes, in steps of `grain`.
struct Share {
  int64_t begin, end;
  Share(const Context& context, int64_t count, int64_t grain = 1) {
    begin = 0, end = count;
    if (context.size == 1) return;
    const int64_t blocks = (count + grain - 1) / grain;
    begin = blocks * context.rank / context.size * grain;
    end = blocks * (context.rank + 1) / context.size * grain;
    if (begin > count) begin = count;
    if (end > count) end = count;
  }
};

template <class T>
inline __attribute__((always_inline)) T* address(const Context& context, const Operand& o,
                                                 int64_t task) {
  return reinterpret_cast<T*>(context.base[o.space]) + o.offset * context.capacity[o.space] +
         (context.first[o.space] + task) * o.stride + o.shift;
}

// One kernel table for each instruction set; the index is that of the alternative in Args.
using Kernel = void (*)(const void* args, const Context& context);

}  // namespace fastmaml
