// What a kernel is given: the memory of a group of tasks and its share of the work.
//
// A kernel handles `tasks` tasks. The `size` threads of a team call it together, each with its
// `rank`; they split the outputs among them and meet at a barrier after the instruction. How the
// outputs are split must not change a bit of any output. What all of them need, or the parts of a
// sum that they share, is made once, in the team's scratch, between two calls of `meet`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/operand.hpp"

namespace fastmaml {

class Barrier;

struct Context {
  char* const* base = nullptr;        // by space
  const int64_t* capacity = nullptr;  // by space: tasks an arena holds, 1 outside arenas
  const int64_t* first = nullptr;     // by space: index of the group's first task there
  const void* scalars = nullptr;      // of the plan's dtype, see Scalars
  int64_t tasks = 0;
  int rank = 0, size = 1;
  char* scratch = nullptr;       // of this thread, kScratchBytes or what the program asks for
  char* team_scratch = nullptr;  // that of the team's first thread
  Barrier* barrier = nullptr;    // of the team; null where it is one thread
};

// Returns when all threads of the team have called it.
void meet(const Context& context);

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
