// What an instruction reads and writes, from the shapes on its card.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/program.hpp"

namespace fastmaml {

// An array as far as the instruction touches it.
struct Array {
  Operand operand;
  int64_t bytes = 0;  // of one task, each number counted once
  bool written = false;
};

std::vector<Array> arrays_of(const Instruction& instruction, Dtype dtype);

}  // namespace fastmaml
