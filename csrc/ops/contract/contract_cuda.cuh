// The contraction on the device: tiles, or sums where there are few outputs. The resident kernel,
// whose factors lie in shared memory already, sums as tiles do, without copying them.
#pragma once

#include <type_traits>

#include "cuda/tiles.cuh"
#include "ops/contract/contract_sums_cuda.cuh"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<DeviceContractArgs> = {128, 192};

struct Tf32Tiles;

// R x C outputs of a thread, its columns far apart so that neighbours read what is side by side.
// The order of each sum is that of a tile.
template <class T, int R, int C>
FASTMAML_DEVICE void contract_in_place(const ContractProblem<T>& problem) {
  const ContractOut<T> out(problem);
  const int32_t m = problem.m, n = problem.n;
  const int across = (n + C - 1) / C, units = across * ((m + R - 1) / R);
  for (int unit = threadIdx.x; unit < units; unit += kThreads) {
    const int i0 = unit / across * R, j0 = unit % across;
    T total[R][C] = {}, chain[R][C] = {};
    int slabs = 0;
    typename ContractProblem<T>::Segment segment;
    for (int s = 0; s < problem.segments(); ++s) {
      problem.open(s, segment);
      const T *a[R], *b[C];
#pragma unroll
      for (int r = 0; r < R; ++r) a[r] = problem.row(segment, i0 + r < m ? i0 + r : m - 1);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int j = j0 + c * across;
        b[c] = problem.b(segment, 0, j < n ? j : n - 1);
      }
      const auto add = [&](int32_t l) {
        T x[R], y[C];
#pragma unroll
        for (int r = 0; r < R; ++r) x[r] = a[r][int64_t{l} * segment.a_col];
#pragma unroll
        for (int c = 0; c < C; ++c) y[c] = b[c][int64_t{l} * segment.b_row];
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
          for (int c = 0; c < C; ++c) chain[r][c] = multiply_add(x[r], y[c], chain[r][c]);
      };
      for (int32_t l = 0; l < segment.k; l += kSlab<T>) {
        if (l + kSlab<T> <= segment.k) {
#pragma unroll 8
          for (int32_t d = 0; d < kSlab<T>; ++d) add(l + d);
        } else {
#pragma unroll 1
          for (int32_t d = l; d < segment.k; ++d) add(d);
        }
        if (++slabs % kChainSlabs<T> == 0) fold_chains(chain, total);
      }
    }
    fold_chains(chain, total);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c)
        if (i0 + r < m && j0 + c * across < n) out(i0 + r, j0 + c * across, total[r][c]);
  }
}

// `Tiles`: void where no kernel with tiles is wanted. Tensor cores take tiles of few outputs, too.
template <class T, class Tiles = FmaTiles<T>>
FASTMAML_DEVICE void run_pass(const DeviceContractArgs& args, const Block& block, int64_t task) {
  const ContractProblem<T> problem(args, block, task);
  if constexpr (kSplit<Tiles> != DepthSplit::none) {
    auto turn = static_cast<int32_t>(block.rank);
    return contract<Tiles, ContractOut<T>>(problem, block, problem.m, turn);
  }
  switch (args.form) {
    case ContractForm::row:
      return sum_row(problem, block);
    case ContractForm::long_row:
      return sum_long_row(problem, block);
    case ContractForm::few_rows:
      if constexpr (!std::is_same_v<Tiles, Tf32Tiles>) return sum_few_rows(problem, block);
      break;
    case ContractForm::dots:
      if constexpr (!std::is_same_v<Tiles, Tf32Tiles>) return sum_dots(problem, block);
      break;
    case ContractForm::tiles:
      break;
  }
  if constexpr (std::is_void_v<Tiles>) {
    constexpr int64_t kFew = 2 * kThreads;
    if (problem.m * problem.n <= kFew) return contract_in_place<T, 1, 2>(problem);
    contract_in_place<T, 2, 2>(problem);
  } else {
    auto turn = static_cast<int32_t>(block.rank);
    contract<Tiles, ContractOut<T>>(problem, block, problem.m, turn);
  }
}

inline int64_t units(const DeviceContractArgs& args) {
  const auto parts = [](int64_t of, int64_t size) { return (of + size - 1) / size; };
  switch (args.form) {
    case ContractForm::row:
      return parts(args.n, kThreads);
    case ContractForm::long_row:
      return parts(args.n, kThreads / kRowLanes) * args.runs;
    case ContractForm::few_rows:
      return parts(args.n, kWarp);
    case ContractForm::dots:
      return parts(parts(args.m, kDotRows) * parts(args.n, kDotColumns), kWarps);
    case ContractForm::tiles:
      break;
  }
  return tile_count(args.m, args.n);
}

}  // namespace fastmaml::device
