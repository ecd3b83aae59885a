// Live ranges -> arena offsets.
//
// A buffer lives from the first to the last instruction of the body that names it; buffers whose
// ranges overlap must not overlap in memory, but for the output of an instruction that works number
// by number: it may take the place of an input that is read for the last time. Buffers that the
// commit reads live to the end of the round, in the keep arena, which is never reused within it.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/program.hpp"

namespace fastmaml {

// Replaces every virtual buffer of the program by (space, offset) and sets the arena sizes.
void place_buffers(Program& program, const std::vector<int64_t>& numels,
                   const std::vector<bool>& shared, Poller& poll);

}  // namespace fastmaml
