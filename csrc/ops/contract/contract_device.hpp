// The contraction's arguments as device code reads them, and what of them the host must know too.
#pragma once

#include "ops/contract/contract.hpp"

namespace fastmaml {

struct DeviceContractArgs {
  Operand c, cin, gate_by;
  int64_t c_row = 0, cin_row = 0, m = 0, n = 0;
  int64_t terms = 0;  // where the ContractTerms stand in the program's tables
  int32_t count = 0;  // of terms
  int32_t scale = 0;
  Gate gate = Gate::open;
  int32_t lanes = 1;  // m == 1: threads that share a column's sum; 0: tiles
};

// A single row is summed column by column. From this depth on eight threads share a column.
constexpr int64_t kSharedDepth = 64;
constexpr int32_t kRowLanes = 8;

}  // namespace fastmaml
