// The rows that batch_norm runs over, in blocks that stay in a first-level cache from the sums to
// whatever reads them next; and what comes in for each row.
//
// Without a pool a block is some rows in a row, and each has its own cotangent. With one it is a
// strip of the image, as high as a window, and only the row that a window chose has any.
#pragma once

#include "ops/batch_norm/batch_norm.hpp"
#include "ops/taps/taps_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

struct PlainRows {
  static constexpr bool kPooled = false, kGated = false;
  int64_t rows, block, blocks;

  explicit PlainRows(const BatchNormArgs& args)
      : rows(args.rows), block(cpu_moment_rows(args.features)), blocks(norm_blocks(args)) {}
  FASTMAML_INLINE int64_t count(int64_t b) const {
    return b + 1 < blocks ? block : rows - b * block;
  }
  int64_t ahead() const { return block; }  // from a row to its like in the next block
  // body(row, window, tap) for the rows of block b.
  template <class Body>
  FASTMAML_INLINE void each(int64_t b, Body&& body) const {
    const int64_t begin = b * block, end = begin + count(b);
    for (int64_t i = begin; i < end; ++i) body(i, i, 0);
  }
};

// Rows that an activation follows.
struct GatedRows : PlainRows {
  static constexpr bool kGated = true;
  using PlainRows::PlainRows;
};

// Rows that a max-pool follows.
struct PooledRows : Strips {
  static constexpr bool kPooled = true, kGated = false;
  explicit PooledRows(const BatchNormArgs& args)
      : Strips(args.pool, args.rows / (args.pool.in_h * args.pool.in_w)) {}
  int64_t ahead() const { return p.kernel_h * p.in_w; }
};

}  // namespace fastmaml::FASTMAML_ISA
