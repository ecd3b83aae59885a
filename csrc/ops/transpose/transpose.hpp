// out[p, j, i] = in[p, i, j]: the second layout of a weight that the forward product reads by rows.
#pragma once

#include <cstdint>

#include "ops/operand.hpp"

namespace fastmaml {

struct TransposeArgs {
  Operand in;   // [count, rows, cols]
  Operand out;  // [count, cols, rows]
  int64_t rows = 0, cols = 0, count = 1;

  template <class Visit>
  void visit(Visit&& visit) {
    visit(in, false);
    visit(out, true);
  }
};

}  // namespace fastmaml
