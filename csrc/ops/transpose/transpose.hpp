// out[p, j, i] = in[p, i, j]: the second layout of a weight that the forward product reads by rows.
#pragma once

#include <cstdint>

#include "ops/card.hpp"

namespace fastmaml {

struct TransposeArgs : Card {
  static constexpr const char* kName = "transpose";
  static constexpr bool kResident = true;

  Operand in;   // [count, rows, cols]
  Operand out;  // [count, cols, rows]
  int64_t rows = 0, cols = 0, count = 1;

  template <class Visit>
  void visit(Visit&& to) {
    to(in, rows * cols * count, false), to(out, rows * cols * count, true);
  }
};

}  // namespace fastmaml
