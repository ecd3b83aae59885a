// moments: what a convolution's epilogue leaves of its output for the batch norm that reads it.
//
//   of each group of rows and each channel:   mean    = mean_rows x
//                                             squares = sum_rows (x - mean)^2        [groups, 2, F]
//
// The convolution writes them while the rows are at hand, and the norm merges the groups in their
// order, so that it reads x once, to normalise it. (On a device a norm of many rows that no
// convolution left any has an instruction of its own make them.) Squares are of deviations, so that
// nothing cancels, and groups follow from the shapes alone.
#pragma once

#include <cstdint>

#include "ops/operand.hpp"

namespace fastmaml {

// Which rows are a group: each `each` that follow one another, the last group taking what is left.
struct MomentGroups {
  int64_t rows = 0, each = 0;  // each 0: no moments are wanted

  constexpr explicit operator bool() const { return each > 0; }
  constexpr int64_t count() const { return (rows + each - 1) / each; }
  // Rows of all groups before g.
  constexpr int64_t before(int64_t g) const { return g * each < rows ? g * each : rows; }
  // Rows of group g.
  constexpr int64_t rows_of(int64_t g) const { return before(g + 1) - before(g); }
};

// Rows of a group on the CPU: about what a first-level cache holds, and never few.
constexpr int64_t cpu_moment_rows(int64_t features) {
  constexpr int64_t kNumbers = 4096, kFewest = 16;
  return kNumbers / features < kFewest ? kFewest : kNumbers / features;
}

struct Moments {
  Operand at;  // [groups, 2, F]
  MomentGroups groups;
};

}  // namespace fastmaml
