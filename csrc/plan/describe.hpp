// The plan as text: what was decided, what it costs, and the instructions.
#pragma once

#include <string>

#include "plan/program.hpp"

namespace fastmaml {

std::string describe_program(const Program& program, int64_t tasks, int threads, int lanes);

}  // namespace fastmaml
