// The resident kernel as host code sees it: one launch that runs a whole program, a block a task.
#pragma once

#include <cstdint>

#include "cuda/call.hpp"
#include "fastmaml.hpp"

namespace fastmaml {

// Instructions that stand one after another in the program's tables.
struct DeviceList {
  int64_t at = 0, count = 0;
};

// All that the launch is given, by value: kernels take up to 4 KiB of arguments.
struct ResidentCall {
  static constexpr int kMostSpaces = 256, kMostScalars = 128;
  uint64_t base[kMostSpaces];  // see ops/operand.hpp; the arenas of a block's own are not used
  uint64_t scalars[kMostScalars];
  const void* scalars_from;  // on the device, instead of these
  const char* tables;
  int64_t tasks;
  DeviceList prologue;  // by every block, into its own shared memory
  DeviceList body;      // by a block for its task
  DeviceList last;      // by the block that ends last: outputs cleared, then sums over tasks
  int64_t transient_bytes, shared_bytes;
  int64_t table_bytes;  // of the tables, 0 where there is no shared memory for them
};
static_assert(sizeof(ResidentCall) <= 4096);

const void* resident_kernel(Dtype dtype);
// By the type of the numbers, each in a translation unit of its own.
template <class T>
const void* resident_of();
template <>
const void* resident_of<float>();
template <>
const void* resident_of<double>();

}  // namespace fastmaml
