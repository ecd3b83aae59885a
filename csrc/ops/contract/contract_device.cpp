#include "ops/contract/contract_device.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "cuda/forms.hpp"
#include "cuda/tables.hpp"

namespace fastmaml {
namespace {

// Device code counts rows, columns and strides of a task in 32 bits, with room to step past them.
void check_sizes(const ContractArgs& args) {
  int64_t most = std::max({args.m, args.n, args.c_row, args.cin_row});
  for (const ContractTerm& term : args.terms) {
    most = std::max({most, term.k, term.a_row, term.a_col, term.b_row, term.b_col});
    if (args.c.stride == 0) most = std::max({most, term.a.stride, term.b.stride});
  }
  if (most >= int64_t{1} << 30)
    throw ShapeError(
        message("on a device a task must have fewer than 2^30 parameters, and rows of ",
                "fewer numbers, got ", most, "; use a smaller model or the CPU"));
}

}  // namespace

int64_t ContractArgs::lower(Tables& tables) const {
  check_sizes(*this);
  DeviceContractArgs to;
  to.c = c, to.cin = cin, to.gate_by = gate_by;
  to.c_row = c_row, to.cin_row = cin_row, to.m = m, to.n = n;
  to.scale = scale, to.gate = gate;
  to.terms = tables.add(terms);
  to.count = static_cast<int32_t>(terms.size());
  to.form = contract_form(*this);
  to.runs = static_cast<int32_t>(runs);
  to.run = static_cast<int32_t>((contract_depth(*this) + runs - 1) / runs);
  return tables.add(&to, 1);
}

}  // namespace fastmaml
