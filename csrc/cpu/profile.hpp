// Times the instructions of a program, one by one.
#pragma once

#include <vector>

#include "cpu/executor.hpp"

namespace fastmaml {

// Executes a call of one thread; see Plan::profile.
std::vector<InstructionTime> execute_timed(const Program& program, const Schedule& schedule,
                                           const Call& call);

}  // namespace fastmaml
