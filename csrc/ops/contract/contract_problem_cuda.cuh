// One contraction of a task as device code sees it: its factors, and what becomes of its sums.
#pragma once

#include "cuda/device.cuh"
#include "ops/contract/contract_device.hpp"

namespace fastmaml::device {

// One instruction for one task, or for all of them where c is shared: the depth then runs on
// through the tasks, whose rows touch.
template <class T>
struct ContractProblem {
  struct Segment {
    const T *from_a, *from_b;
    // In 32 bits: an array of a task has fewer numbers.
    int32_t a_row, a_col, b_row, b_col, k;
    bool a_wide, b_wide;
  };
  using Row = const T*;
  using Depth = int64_t;
  using Spot = const T*;
  static constexpr bool kDeep = false;  // either order, term by term

  const DeviceContractArgs& args;
  const Block& block;
  int64_t task;
  int32_t m, n;

  FASTMAML_DEVICE ContractProblem(const DeviceContractArgs& a, const Block& b, int64_t t)
      : args(a), block(b), task(t), m(static_cast<int32_t>(a.m)), n(static_cast<int32_t>(a.n)) {}
  FASTMAML_DEVICE int segments() const { return args.count; }
  FASTMAML_DEVICE void open(int s, Segment& to) const {
    const ContractTerm& term = block.table<ContractTerm>(args.terms)[s];
    const int64_t flatten = args.c.stride == 0 ? block.tasks : 1;
    to.from_a = address<T>(block, term.a, task), to.from_b = address<T>(block, term.b, task);
    const bool by_tasks = flatten > 1 && term.k == 1;
    to.a_row = static_cast<int32_t>(term.a_row), to.b_col = static_cast<int32_t>(term.b_col);
    to.a_col = static_cast<int32_t>(by_tasks ? term.a.stride : term.a_col);
    to.b_row = static_cast<int32_t>(by_tasks ? term.b.stride : term.b_row);
    to.k = static_cast<int32_t>(term.k * flatten);
    constexpr int32_t kWide = 16 / static_cast<int32_t>(sizeof(T));
    const auto aligned = [](const T* p) { return reinterpret_cast<uint64_t>(p) % 16 == 0; };
    to.a_wide = to.a_row == 1 && m % kWide == 0 && to.a_col % kWide == 0 && aligned(to.from_a);
    to.b_wide = to.b_col == 1 && n % kWide == 0 && to.b_row % kWide == 0 && aligned(to.from_b);
  }
  FASTMAML_DEVICE Row row(const Segment& s, int32_t i) const {
    return s.from_a + int64_t{i} * s.a_row;
  }
  FASTMAML_DEVICE Depth depth(const Segment& s, int32_t l) const { return int64_t{l} * s.a_col; }
  FASTMAML_DEVICE Spot spot(const Segment&, Row row, Depth depth) const { return row + depth; }
  FASTMAML_DEVICE bool there(const Segment&, Spot) const { return true; }
  FASTMAML_DEVICE const T* a(const Segment&, Spot spot) const { return spot; }
  FASTMAML_DEVICE const T* b(const Segment& s, int32_t l, int32_t j) const {
    return s.from_b + (int64_t{l} * s.b_row + int64_t{j} * s.b_col);
  }
};

// What becomes of a sum: c = gate(cin + scale sum).
template <class T>
struct ContractOut {
  const DeviceContractArgs& args;
  T scale;
  T* c;
  const T *cin, *gate_by;

  FASTMAML_DEVICE explicit ContractOut(const ContractProblem<T>& p)
      : args(p.args), scale(p.block.template scalar<T>(p.args.scale)) {
    c = address<T>(p.block, args.c, p.task), cin = address_or_null<T>(p.block, args.cin, p.task);
    gate_by = address_or_null<T>(p.block, args.gate_by, p.task);
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

}  // namespace fastmaml::device
