// Contractions without tiles, for outputs too few to fill them: of one row, of a few rows, and of
// inner products. All of them go to memory for their factors some at a time, since a block that has
// a multiprocessor to itself waits for nothing else.
#pragma once

#include <limits>

#include "cuda/columns.cuh"
#include "cuda/scalar.cuh"
#include "cuda/tile.cuh"
#include "ops/contract/contract_problem_cuda.cuh"
#include "ops/long_sum.hpp"

namespace fastmaml::device {

constexpr int32_t kWholeDepth = std::numeric_limits<int32_t>::max();

// C columns of a single row, `apart` from each other: this thread sums every lanes-th of their
// products from `begin` to `stop`, or to where the segment ends. Loads are made D deep before any
// is added, so that they are under way together.
template <class T, int C, int D>
FASTMAML_DEVICE void sum_products(const ContractProblem<T>& problem, int32_t j0, int32_t apart,
                                  int32_t begin, int32_t stop, int lanes, T (&total)[C]) {
  constexpr int kChain = 256 / D;
  T chain[C] = {};
  int batches = 0;
  typename ContractProblem<T>::Segment segment;
  for (int s = 0; s < problem.segments(); ++s) {
    problem.open(s, segment);
    const int32_t end = stop < segment.k ? stop : segment.k;
    for (int32_t l = begin; l < end; l += D * lanes) {
      T a[D], b[D][C];
#pragma unroll
      for (int d = 0; d < D; ++d) {
        const int32_t at = l + d * lanes;
        a[d] = at < end ? segment.from_a[problem.depth(segment, at)] : T(0);
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const int32_t j = j0 + c * apart;
          b[d][c] = at < end && j < problem.n ? *problem.b(segment, at, j) : T(0);
        }
      }
#pragma unroll
      for (int d = 0; d < D; ++d)
#pragma unroll
        for (int c = 0; c < C; ++c) chain[c] = multiply_add(a[d], b[d][c], chain[c]);
      if (++batches % kChain != 0) continue;
#pragma unroll
      for (int c = 0; c < C; ++c) total[c] += chain[c], chain[c] = T(0);
    }
  }
#pragma unroll
  for (int c = 0; c < C; ++c) total[c] += chain[c];
}

// A thread a column, two of them at a time.
template <class T>
FASTMAML_DEVICE void sum_row(const ContractProblem<T>& problem, const Block& block) {
  const ContractOut<T> out(problem);
  constexpr int kAtOnce = 2;
  const auto apart = static_cast<int32_t>(block.all_threads());
  for (auto j0 = static_cast<int32_t>(block.first_thread()); j0 < problem.n;
       j0 += kAtOnce * apart) {
    T sum[kAtOnce] = {};
    sum_products<T, kAtOnce, 8>(problem, j0, apart, 0, kWholeDepth, 1, sum);
#pragma unroll
    for (int c = 0; c < kAtOnce; ++c)
      if (j0 + c * apart < problem.n) out(0, j0 + c * apart, sum[c]);
  }
}

// kRowLanes threads a column, of one run of the depth.
template <class T>
FASTMAML_DEVICE void sum_long_row(const ContractProblem<T>& problem, const Block& block) {
  const ContractOut<T> out(problem);
  constexpr int kColumns = kThreads / kRowLanes;
  const DeviceContractArgs& args = problem.args;
  const int column = threadIdx.x % kColumns, lane = threadIdx.x / kColumns;
  const int64_t chunks = (problem.n + kColumns - 1) / kColumns;
  Carve carve(block);
  T* sums = carve.take<T>(kThreads);
  for (int64_t unit = block.rank; unit < chunks * args.runs; unit += block.size) {
    const auto run = static_cast<int32_t>(quotient(unit, chunks));
    const auto j = static_cast<int32_t>((unit - run * chunks) * kColumns + column);
    const int32_t begin = run * args.run, stop = args.runs > 1 ? begin + args.run : kWholeDepth;
    T sum[1] = {};
    if (j < problem.n) sum_products<T, 1, 8>(problem, j, 0, begin + lane, stop, kRowLanes, sum);
    sums[threadIdx.x] = sum[0];
    __syncthreads();
    if (lane == 0 && j < problem.n) {
      for (int other = 1; other < kRowLanes; ++other) sum[0] += sums[other * kColumns + column];
      out(run, j, sum[0]);
    }
    __syncthreads();
  }
}

// The products of `count` depths from `begin` on, for column j of all rows; `a` is where their part
// of the chunk begins.
template <class T>
FASTMAML_DEVICE void add_few_rows(const ContractProblem<T>& problem,
                                  const typename ContractProblem<T>::Segment& segment,
                                  int32_t begin, int32_t count, int32_t j, const T* a,
                                  T (&total)[kFewRows]) {
  constexpr int kRows = static_cast<int>(kFewRows), kChunk = kThreads, kStep = 4;
  T chain[kRows] = {};
#pragma unroll 2
  for (int32_t d = 0; d < count; d += kStep) {
    T b[kStep];
#pragma unroll
    for (int u = 0; u < kStep; ++u)
      b[u] = d + u < count ? *problem.b(segment, begin + d + u, j) : T(0);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Four<T> four = *reinterpret_cast<const Four<T>*>(a + r * kChunk + d);
#pragma unroll
      for (int u = 0; u < kStep; ++u) chain[r] = multiply_add(four.of[u], b[u], chain[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) total[r] += chain[r];
}

// Up to kFewRows rows: a warp has 32 columns, a lane one, and the block's warps share the depth of
// each chunk, whose part of a all columns need and read from shared memory.
template <class T>
FASTMAML_DEVICE void sum_few_rows(const ContractProblem<T>& problem, const Block& block) {
  constexpr int kRows = static_cast<int>(kFewRows), kChunk = kThreads, kOwn = kChunk / kWarps;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Carve carve(block);
  T* const memory = carve.take<T>(kRows * kChunk);
  typename ContractProblem<T>::Segment segment;
  for (int64_t j0 = block.rank * kWarp; j0 < problem.n; j0 += block.size * kWarp) {
    const auto j = static_cast<int32_t>(j0) + lane;
    T total[kRows] = {};
    for (int s = 0; s < problem.segments(); ++s) {
      problem.open(s, segment);
      for (int32_t from = 0; from < segment.k; from += kChunk) {
        const int32_t l = from + static_cast<int32_t>(threadIdx.x);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          memory[r * kChunk + threadIdx.x] =
              r < problem.m && l < segment.k ? problem.row(segment, r)[problem.depth(segment, l)]
                                             : T(0);
        __syncthreads();
        const int32_t begin = from + warp * kOwn, left = segment.k - begin;
        if (j < problem.n)
          add_few_rows(problem, segment, begin, left < kOwn ? left : kOwn, j, memory + warp * kOwn,
                       total);
        __syncthreads();
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) memory[(warp * kRows + r) * kWarp + lane] = total[r];
    __syncthreads();
    // A warp joins a row.
    T sum = 0;
    for (int other = 0; other < kWarps; ++other)
      sum += memory[(other * kRows + warp) * kWarp + lane];
    if (warp < problem.m && j < problem.n) ContractOut<T>{problem}(warp, j, sum);
    __syncthreads();
  }
}

// Outputs one by one, a warp some of them and a lane every 32nd product of each: where both factors
// lie along the depth.
template <class T>
FASTMAML_DEVICE void sum_dots(const ContractProblem<T>& problem, const Block& block) {
  constexpr int R = static_cast<int>(kDotRows), C = static_cast<int>(kDotColumns);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int32_t m = problem.m, n = problem.n;
  const int32_t across = (n + C - 1) / C, units = across * ((m + R - 1) / R);
  const auto apart = static_cast<int32_t>(block.size) * kWarps;
  for (int32_t unit = static_cast<int32_t>(block.rank) * kWarps + warp; unit < units;
       unit += apart) {
    const int32_t i0 = unit / across * R, j0 = unit % across * C;
    T total[R][C] = {}, chain[R][C] = {};
    int32_t room = kChain;
    typename ContractProblem<T>::Segment segment;
    for (int s = 0; s < problem.segments(); ++s) {
      problem.open(s, segment);
      const T *a[R], *b[C];
#pragma unroll
      for (int r = 0; r < R; ++r) a[r] = problem.row(segment, i0 + r < m ? i0 + r : m - 1);
#pragma unroll
      for (int c = 0; c < C; ++c) b[c] = problem.b(segment, 0, j0 + c < n ? j0 + c : n - 1);
      for (int32_t l = lane; l < segment.k;) {
        if (room == 0) fold_chains(chain, total), room = kChain;
        const int32_t left = (segment.k - l + kWarp - 1) / kWarp, count = left < room ? left : room;
        room -= count;
#pragma unroll 4
        for (const int32_t stop = l + count * kWarp; l < stop; l += kWarp) {
          T x[R], y[C];
#pragma unroll
          for (int r = 0; r < R; ++r) x[r] = a[r][l];
#pragma unroll
          for (int c = 0; c < C; ++c) y[c] = b[c][l];
#pragma unroll
          for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < C; ++c) chain[r][c] = multiply_add(x[r], y[c], chain[r][c]);
        }
      }
    }
    fold_chains(chain, total);
    const ContractOut<T> out(problem);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const T sum = over_warp(total[r][c], Plus{});
        if (lane == r * C + c && i0 + r < m && j0 + c < n) out(i0 + r, j0 + c, sum);
      }
  }
}

}  // namespace fastmaml::device
