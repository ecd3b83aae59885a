// transpose on the device: 32 x 32 tiles through shared memory, so that both sides are read and
// written along rows.
#pragma once

#include "cuda/device.cuh"
#include "ops/transpose/transpose.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<TransposeArgs> = {64, 64};

constexpr int kTransposeTile = 32;

template <class T>
FASTMAML_DEVICE void run_pass(const TransposeArgs& args, const Block& block, int64_t task) {
  constexpr int kTile = kTransposeTile, kDown = kThreads / kTile;
  const T* in = address<T>(block, args.in, task);
  T* out = address<T>(block, args.out, task);
  Carve carve(block);
  T* tile = carve.take<T>(kTile * (kTile + 1));  // an odd row, so that columns meet no bank twice
  const int64_t across = (args.cols + kTile - 1) / kTile;
  const int64_t each = across * ((args.rows + kTile - 1) / kTile);
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  for (int64_t at = block.rank; at < each * args.count; at += block.size) {
    const int64_t matrix = at / each * args.rows * args.cols;
    const int64_t i0 = at % each / across * kTile, j0 = at % each % across * kTile;
    for (int r = y; r < kTile; r += kDown)
      if (i0 + r < args.rows && j0 + x < args.cols)
        tile[r * (kTile + 1) + x] = in[matrix + (i0 + r) * args.cols + j0 + x];
    __syncthreads();
    for (int r = y; r < kTile; r += kDown)
      if (j0 + r < args.cols && i0 + x < args.rows)
        out[matrix + (j0 + r) * args.rows + i0 + x] = tile[x * (kTile + 1) + r];
    __syncthreads();
  }
}

inline int64_t units(const TransposeArgs& args) {
  constexpr int64_t kTile = kTransposeTile;
  return args.count * ((args.rows + kTile - 1) / kTile) * ((args.cols + kTile - 1) / kTile);
}

}  // namespace fastmaml::device
