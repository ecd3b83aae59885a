// What a launch is given, and the sizes that host and device agree on.
#pragma once

#include <cstdint>

namespace fastmaml {

// Threads of every block. 256 hold a 64 x 64 tile of a contraction, 16 numbers each.
constexpr int kThreads = 256;
// Shared memory of one instruction, and of one that has tiles: as many pairs of slabs as fit.
template <class T>
constexpr int64_t kInstructionBytes = static_cast<int64_t>(sizeof(T)) * 2 * 1024;
template <class T>
constexpr int64_t kTileBytes = 48 * 1024;

// One call, or one round of it. All pointers are device pointers.
struct DeviceCall {
  char* const* base = nullptr;    // by space; see ops/operand.hpp
  const void* scalars = nullptr;  // of the plan's dtype, see Scalars
  const char* tables = nullptr;   // the program's tables, see cuda/lower.hpp
  int64_t capacity = 0;           // tasks an arena holds
  int64_t start = 0;              // the round's first task
  int64_t tasks = 0;              // tasks of the round
};

}  // namespace fastmaml
