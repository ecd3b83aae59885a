// The plan as text: what was decided, what it costs, and the instructions.
#pragma once

#include <string>

#include "cpu/layout.hpp"
#include "engine/device_cost.hpp"
#include "plan/program.hpp"

namespace fastmaml {

std::string describe_program(const Program& program, size_t program_bytes, const Layout& layout,
                             int64_t tasks);

// The same on a device, whose blocks have at most `shared_limit` bytes of shared memory.
std::string describe_device_program(const Program& program, const DeviceCost& cost, int64_t tasks,
                                    size_t table_bytes, int64_t shared_limit);

}  // namespace fastmaml
