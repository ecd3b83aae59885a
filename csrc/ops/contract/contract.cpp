#include "ops/contract/contract.hpp"

#include <utility>

#include "core/error.hpp"

namespace fastmaml {
namespace {

// A single column is a single row of the transposed problem, whose outer products run along
// contiguous memory: c^T[1, m] = b^T a^T.
bool transpose_helps(const ContractArgs& args) {
  if (args.n != 1 || args.m == 1 || args.c_row != 1) return false;
  if (args.cin && args.cin_row != 1) return false;
  for (const ContractTerm& term : args.terms)
    if (term.a_row != 1) return false;
  return !args.terms.empty();
}

void transpose(ContractArgs& args) {
  std::swap(args.m, args.n);
  args.c_row = args.cin_row = args.n;
  for (ContractTerm& term : args.terms) {
    std::swap(term.a, term.b);
    const int64_t a_col = term.b_row, b_row = term.a_col;
    term.a_row = 0, term.a_col = a_col;
    term.b_row = b_row, term.b_col = 1;
  }
}

bool inner_products(const ContractArgs& args) {
  for (const ContractTerm& term : args.terms)
    if (term.a_col != 1 || term.b_row != 1) return false;
  return !args.terms.empty();
}

bool rows_touch(const ContractArgs& args) {
  if (args.c.stride != args.m * args.c_row) return false;
  if (args.cin) {
    const bool one_row = args.cin.stride == 0 && args.cin_row == 0;
    if (!one_row && args.cin.stride != args.m * args.cin_row) return false;
    if (args.m == 1 && args.cin.stride == 0 && args.cin_row != 0) return false;
  }
  for (const ContractTerm& term : args.terms)
    if (term.b.stride != 0 || term.a.stride != args.m * term.a_row) return false;
  return !args.terms.empty();
}

}  // namespace

void ContractArgs::settle() {
  if (transpose_helps(*this)) transpose(*this);
  dot = inner_products(*this);
  stack = rows_touch(*this);
  terms.shrink_to_fit();
}

double ContractArgs::flops() const {
  double total = 0;
  for (const ContractTerm& term : terms)
    total += 2.0 * static_cast<double>(m * n) * static_cast<double>(term.k);
  return total;
}

std::string ContractArgs::details() const {
  int64_t k = 0;
  for (const ContractTerm& term : terms) k += term.k;
  return message("  [", m, " x ", k, " x ", n, "]", stack ? " stacked" : "", dot ? " inner" : "",
                 gate == Gate::open ? "" : " + relu");
}

}  // namespace fastmaml
