// The one contraction that linear layers, bias sums, residual adds, parameter updates and the
// meta-gradient are made of.
//
//   c[i, j] = cin[i, j] + scale * sum_terms sum_l a[i, l] * b[l, j]        i < m, j < n, l < k
//
// When c is shared between tasks (stride 0), the sum also runs over the tasks, in order. `cin`
// absent means 0; no terms means c = cin.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/operand.hpp"

namespace fastmaml {

struct ContractTerm {
  Operand a;          // [m, k]
  int64_t a_row = 0;  // elements between a's rows i
  int64_t a_col = 0;  // elements between a's columns l
  Operand b;          // [k, n]
  int64_t b_row = 0;  // elements between b's rows l
  int64_t b_col = 1;  // elements between b's columns j
  int64_t k = 0;
};

// The last touch to each number of c: relu and its derivative, fused into the contraction.
enum class Gate : int32_t {
  open,     // none
  itself,   // c = c <= 0 ? 0 : c
  operand,  // c = gate_by > 0 ? c : 0
};

struct ContractArgs {
  Operand c;  // [m, n] out, columns contiguous
  int64_t c_row = 0;
  Operand cin;  // [m, n] in, or one row for all when cin_row == 0; may be c itself
  int64_t cin_row = 0;
  int64_t m = 0, n = 0;
  int64_t runs = 1;  // on a device, m == 1, one term: c is [runs, n], of so many runs of the depth
  int scale = 0;     // scalar slot
  Gate gate = Gate::open;
  Operand gate_by;  // Gate::operand: [m, n] in, laid out as c
  std::vector<ContractTerm> terms;
  // Filled by `normalize`.
  bool dot = false;    // both factors have contiguous l: inner products instead of outer ones
  bool stack = false;  // b is shared and the tasks' rows touch: m * tasks rows at once

  template <class Visit>
  void visit(Visit&& visit) {
    visit(cin, false);
    visit(gate_by, false);
    for (ContractTerm& term : terms) visit(term.a, false), visit(term.b, false);
    visit(c, true);
  }
};

// Chooses the form. Called once by the planner, after which the kernel trusts the fields.
void normalize(ContractArgs& args);

}  // namespace fastmaml
