// Transposition by 8 x 8 (float) or 4 x 4 (double) blocks held in registers.
//
// The block is log2(B) rounds of pairwise interleaving; the ragged rim is copied number by number.
#pragma once

#include "cpu/context.hpp"
#include "cpu/simd.hpp"
#include "ops/transpose/transpose.hpp"

namespace fastmaml::FASTMAML_ISA {

template <class T>
constexpr int kBlock = 32 / static_cast<int>(sizeof(T));

template <class T>
struct BlockOf;
template <>
struct BlockOf<float> {
  typedef float row __attribute__((vector_size(32)));
  typedef float loose __attribute__((vector_size(32), aligned(4), may_alias));
  static FASTMAML_INLINE row low(row a, row b) {
    return row{a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]};
  }
  static FASTMAML_INLINE row high(row a, row b) {
    return row{a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]};
  }
};
template <>
struct BlockOf<double> {
  typedef double row __attribute__((vector_size(32)));
  typedef double loose __attribute__((vector_size(32), aligned(8), may_alias));
  static FASTMAML_INLINE row low(row a, row b) { return row{a[0], b[0], a[1], b[1]}; }
  static FASTMAML_INLINE row high(row a, row b) { return row{a[2], b[2], a[3], b[3]}; }
};

// Interleaving rows r and r + B/2, log2(B) times, transposes the block.
template <class T>
FASTMAML_INLINE void transpose_block(const T* in, int64_t in_row, T* out, int64_t out_row) {
  constexpr int B = kBlock<T>;
  using Row = typename BlockOf<T>::row;
  using Loose = typename BlockOf<T>::loose;
  Row rows[B], mixed[B];
  for (int r = 0; r < B; ++r) rows[r] = *reinterpret_cast<const Loose*>(in + r * in_row);
#pragma GCC unroll 4
  for (int round = 1; round < B; round *= 2) {
    for (int r = 0; r < B / 2; ++r) {
      mixed[2 * r] = BlockOf<T>::low(rows[r], rows[r + B / 2]);
      mixed[2 * r + 1] = BlockOf<T>::high(rows[r], rows[r + B / 2]);
    }
    for (int r = 0; r < B; ++r) rows[r] = mixed[r];
  }
  for (int r = 0; r < B; ++r) *reinterpret_cast<Loose*>(out + r * out_row) = rows[r];
}

// Rows [begin, end) of one matrix.
template <class T>
void transpose_rows(const T* in, T* out, int64_t rows, int64_t cols, int64_t begin, int64_t end) {
  constexpr int64_t B = kBlock<T>;
  for (int64_t i = begin; i < end; i += B) {
    int64_t j = 0;
    if (i + B <= end)
      for (; j + B <= cols; j += B)
        transpose_block(in + i * cols + j, cols, out + j * rows + i, rows);
    const int64_t stop = i + B < end ? i + B : end;
    for (; j < cols; ++j)
      for (int64_t r = i; r < stop; ++r) out[j * rows + r] = in[r * cols + j];
  }
}

template <class T>
void run_kernel(const TransposeArgs& args, const Context& context) {
  constexpr int64_t B = kBlock<T>;
  const int64_t cols = args.cols, rows = args.rows;
  // One matrix is split by its rows, several one by one.
  const bool whole = args.count > 1;
  const Share share(context, whole ? args.count : rows, whole ? 1 : B);
  // A shared weight is transposed once, not once for each task of the group.
  const int64_t tasks = args.out.stride == 0 ? 1 : context.tasks;
  for (int64_t g = 0; g < tasks; ++g) {
    const T* in = address<T>(context, args.in, g);
    T* out = address<T>(context, args.out, g);
    if (!whole) {
      transpose_rows(in, out, rows, cols, share.begin, share.end);
      continue;
    }
    for (int64_t p = share.begin; p < share.end; ++p)
      transpose_rows(in + p * rows * cols, out + p * rows * cols, rows, cols, 0, rows);
  }
}

}  // namespace fastmaml::FASTMAML_ISA
