// How a call on a device is cut up, and whether one kernel can run it. No CUDA here, so that every
// build can say what a plan would do on a device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/program.hpp"

namespace fastmaml {

// How the workspace is cut up; offsets in bytes.
struct DeviceLayout {
  int64_t round = 1;  // tasks at a time
  size_t base = 0, scalars = 0, shared = 0, keep = 0, transient = 0, total = 0;
};

DeviceLayout layout_of(const Program& program, int64_t tasks, int lanes);

// Launches that write where a call's memory lies, and its scalars, into the workspace.
int64_t word_launches(const Program& program);

// Whether the resident kernel holds the kernels of all its instructions.
bool resident_knows(const Program& program);
// Shared memory of one block of the resident kernel.
int64_t resident_bytes(const Program& program);
// Why the resident kernel cannot run a call, or null. `team` as in Call; `shared_limit` is the most
// shared memory that a block of the device can have.
const char* resident_obstacle(const Program& program, const DeviceLayout& layout, int64_t tasks,
                              int team, int64_t shared_limit);

}  // namespace fastmaml
