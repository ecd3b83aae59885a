// The contraction on the device: tiles, or, for a single row, sums of columns.
#pragma once

#include "cuda/tile.cuh"
#include "ops/contract/contract_device.hpp"

namespace fastmaml::device {

// One instruction for one task, or for all of them where c is shared: the depth then runs on
// through the tasks, whose rows touch.
template <class T>
struct ContractProblem {
  struct Segment {
    const T *from_a, *from_b;
    int64_t a_row, a_col, b_row, b_col, k;
    bool a_wide, b_wide;
  };
  using Row = const T*;
  using Depth = int64_t;
  static constexpr bool kDeep = false;  // either order, term by term

  const DeviceContractArgs& args;
  const Block& block;
  int64_t task, m, n, flatten;
  const ContractTerm* terms;

  FASTMAML_DEVICE ContractProblem(const DeviceContractArgs& a, const Block& b, int64_t t)
      : args(a), block(b), task(t), m(a.m), n(a.n), flatten(a.c.stride == 0 ? b.tasks : 1) {
    terms = block.table<ContractTerm>(args.terms);
  }
  FASTMAML_DEVICE int segments() const { return args.count; }
  FASTMAML_DEVICE const T* anywhere() const { return static_cast<const T*>(block.call.scalars); }
  FASTMAML_DEVICE bool open(int s, Segment& to) const {
    const ContractTerm& term = terms[s];
    if (term.gate >= 0 && block.scalar<T>(term.gate) == T(0)) return false;
    to = {address<T>(block, term.a, task),
          address<T>(block, term.b, task),
          term.a_row,
          term.a_col,
          term.b_row,
          term.b_col,
          term.k * flatten,
          false,
          false};
    if (flatten > 1 && term.k == 1) to.a_col = term.a.stride, to.b_row = term.b.stride;
    constexpr int64_t kWide = 16 / static_cast<int64_t>(sizeof(T));
    const auto aligned = [](const T* p) { return reinterpret_cast<uint64_t>(p) % 16 == 0; };
    to.a_wide = to.a_row == 1 && m % kWide == 0 && to.a_col % kWide == 0 && aligned(to.from_a);
    to.b_wide = to.b_col == 1 && n % kWide == 0 && to.b_row % kWide == 0 && aligned(to.from_b);
    return true;
  }
  FASTMAML_DEVICE Row row(const Segment& s, int64_t i) const { return s.from_a + i * s.a_row; }
  FASTMAML_DEVICE Depth depth(const Segment& s, int64_t l) const { return l * s.a_col; }
  FASTMAML_DEVICE const T* a(const Segment&, Row row, Depth depth) const { return row + depth; }
  FASTMAML_DEVICE const T* b(const Segment& s, int64_t l, int64_t j) const {
    return s.from_b + l * s.b_row + j * s.b_col;
  }
};

// What becomes of a sum: c = gate(cin + scale sum).
template <class T>
struct ContractOut {
  const DeviceContractArgs& args;
  T scale;
  T* c;
  const T *cin, *gate_by;

  FASTMAML_DEVICE ContractOut(const DeviceContractArgs& a, const Block& block, int64_t task)
      : args(a), scale(block.scalar<T>(a.scale)) {
    c = address<T>(block, a.c, task), cin = address_or_null<T>(block, a.cin, task);
    gate_by = address_or_null<T>(block, a.gate_by, task);
  }
  FASTMAML_DEVICE int64_t row(int64_t i) const { return i; }
  FASTMAML_DEVICE void operator()(int64_t i, int64_t j, T sum) const {
    T value = sum * scale;
    if (cin) value = cin[i * args.cin_row + j] + value;
    if (args.gate == Gate::itself)
      value = value <= T(0) ? T(0) : value;
    else if (args.gate == Gate::operand)
      value = gate_by[i * args.c_row + j] > T(0) ? value : T(0);
    c[i * args.c_row + j] = value;
  }
};

// Column j of a single row: lane `lane` of `lanes` sums every lanes-th product, in chains.
template <class T>
FASTMAML_DEVICE T column_sum(const ContractProblem<T>& problem, int64_t j, int lane, int lanes) {
  constexpr int kChain = kSlab * kChainSlabs;
  T total = 0, chain = 0;
  int count = 0;
  typename ContractProblem<T>::Segment segment;
  for (int s = 0; s < problem.segments(); ++s) {
    if (!problem.open(s, segment)) continue;
    for (int64_t l = lane; l < segment.k; l += lanes) {
      chain += *problem.a(segment, segment.from_a, problem.depth(segment, l)) *
               *problem.b(segment, l, j);
      if (++count % kChain == 0) total += chain, chain = T(0);
    }
  }
  return total + chain;
}

template <class T>
FASTMAML_DEVICE void sum_columns(const ContractProblem<T>& problem, const Block& block,
                                 const ContractOut<T>& out) {
  const int lanes = problem.args.lanes, columns = kThreads / lanes;
  const int column = threadIdx.x % columns, lane = threadIdx.x / columns;
  Carve carve(block);
  T* sums = carve.take<T>(kThreads);
  for (int64_t j0 = block.rank * columns; j0 < problem.n; j0 += block.size * columns) {
    const int64_t j = j0 + column;
    T sum = j < problem.n ? column_sum(problem, j, lane, lanes) : T(0);
    if (lanes > 1) {
      sums[threadIdx.x] = sum;
      __syncthreads();
      if (lane == 0)
        for (int other = 1; other < lanes; ++other) sum += sums[other * columns + column];
      __syncthreads();
    }
    if (lane == 0 && j < problem.n) out(0, j, sum);
  }
}

template <class T, class Tiles = FmaTiles<T>>
FASTMAML_DEVICE void run_pass(const DeviceContractArgs& args, const Block& block, int64_t task) {
  const ContractProblem<T> problem(args, block, task);
  const ContractOut<T> out(args, block, task);
  if (args.lanes > 0) return sum_columns(problem, block, out);
  auto turn = static_cast<int32_t>(block.rank);
  contract<Tiles>(problem, block, out, problem.m, turn);
}

inline int64_t units(const DeviceContractArgs& args) {
  if (args.lanes == 0) return tile_count(args.m, args.n);
  const int64_t columns = kThreads / args.lanes;
  return (args.n + columns - 1) / columns;
}

}  // namespace fastmaml::device
