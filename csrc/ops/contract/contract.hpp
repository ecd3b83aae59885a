// The one contraction that linear layers, bias sums, residual adds, parameter updates and the
// meta-gradient are made of.
//
//   c[i, j] = cin[i, j] + scale * sum_terms sum_l a[i, l] * b[l, j]        i < m, j < n, l < k
//
// When c is shared between tasks (stride 0), the sum also runs over the tasks, in order. `cin`
// absent means 0; no terms means c = cin.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/card.hpp"

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

struct DeviceContractArgs;
class Tables;

struct ContractArgs : Card {
  static constexpr const char* kName = "contract";
  static constexpr bool kResident = true;
  using Device = DeviceContractArgs;

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
  // Filled by `settle`, which chooses the form.
  bool dot = false;    // both factors have contiguous l: inner products instead of outer ones
  bool stack = false;  // b is shared and the tasks' rows touch: m * tasks rows at once

  void settle();
  double flops() const;
  std::string details() const;
  int64_t lower(Tables& tables) const;

  template <class Visit>
  void visit(Visit&& to) {
    const auto many = [](int64_t step, int64_t count) { return step == 0 ? 1 : count; };
    for (ContractTerm& term : terms) {
      to(term.a, many(term.a_row, m) * many(term.a_col, term.k), false);
      to(term.b, many(term.b_row, term.k) * many(term.b_col, n), false);
    }
    to(cin, many(cin_row, m) * n, false);
    to(gate_by, m * n, false);
    to(c, runs * m * n, true);
  }
  template <class Hold>
  void holds(Hold&& hold) const {
    hold(terms);
  }
};

}  // namespace fastmaml
