// The contraction's arguments as device code reads them, and what of them the host must know too.
#pragma once

#include "ops/contract/contract.hpp"

namespace fastmaml {

// How the sums are shared out. It follows from the shapes alone, since their order depends on it.
enum class ContractForm : int32_t {
  tiles,     // a block has a tile of outputs
  row,       // of one output row, a thread has every so many columns
  long_row,  // the same where several threads share a column
  few_rows,  // a warp has columns, of all rows, and a part of the depth
  dots,      // a warp has some outputs, a lane a part of the depth
};

struct DeviceContractArgs {
  Operand c, cin, gate_by;
  int64_t c_row = 0, cin_row = 0, m = 0, n = 0;
  int64_t terms = 0;  // where the ContractTerms stand in the program's tables
  int32_t count = 0;  // of terms
  int32_t scale = 0;
  Gate gate = Gate::open;
  ContractForm form = ContractForm::tiles;
  int32_t runs = 1, run = 0;  // long_row: c is [runs, n], of runs of `run` of the depth
};

// From this depth on eight threads share a column of a single row.
constexpr int64_t kSharedDepth = 64;
constexpr int32_t kRowLanes = 8;
// Few rows are kFewRows at most, and few dots so many; both are for sums of some depth.
constexpr int64_t kFewRows = 8, kFewRowsDepth = 32, kFewDots = 4096, kDotDepth = 64;
constexpr int64_t kDotRows = 4, kDotColumns = 2;  // of a warp

}  // namespace fastmaml
