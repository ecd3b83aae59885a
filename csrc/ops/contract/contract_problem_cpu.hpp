// One problem of the contraction as the kernels see it: plain pointers and strides.
#pragma once

#include "cpu/context.hpp"
#include "cpu/simd.hpp"
#include "ops/contract/contract.hpp"
#include "ops/long_sum.hpp"

namespace fastmaml::FASTMAML_ISA {

// One run of l: a[i * a_row + l * a_col] * b[l * b_row + j * b_col] for l < k.
template <class T>
struct Segment {
  const T* a;
  int64_t a_row, a_col;
  const T* b;
  int64_t b_row, b_col, k;
};

template <class T>
struct Contraction {
  const Segment<T>* segments;
  int count;
  const T* cin;  // null: zero
  int64_t cin_row;
  T* c;
  int64_t c_row, m, n;
  T scale;
  // The tiles of the outer form compute cin + scale * (so_far + sum) when `scaled`, otherwise
  // so_far + sum: a sum is cut into runs that hand `so_far` on, and an unscaled one starts at cin.
  bool scaled;
  const T* so_far;
  int64_t so_far_row;
  Gate gate;
  const T* gate_by;  // laid out as c
  // Outer form: terms summed in one chain of multiply-adds. Longer sums are folded, chain by chain,
  // into a second accumulator. Blocks of packed l are multiples of it, so that the folds fall on
  // the same l whether a panel was packed or not.
  int64_t chain = kChain;

  void start() {
    scaled = scale != T(1);
    so_far = scaled ? nullptr : cin;
    so_far_row = cin_row;
  }

  int64_t depth() const {
    int64_t total = 0;
    for (int s = 0; s < count; ++s) total += segments[s].k;
    return total;
  }
};

// What the gate leaves of `value`, given the gate's own number there.
template <class V, class T>
FASTMAML_INLINE V gated(Gate gate, V value, V by) {
  if (gate == Gate::itself) return value <= T(0) ? V{} : value;
  return by > T(0) ? value : V{};
}

constexpr int kMaxSegments = 64;
// [0, count) cut into the fewest parts of at most `most`, as even as possible. Divisions are kept
// out of the way of small problems, which they would cost as much as a tile.
struct Cut {
  int64_t parts = 1, size, larger = 0;  // the first `larger` parts have size + 1
  FASTMAML_INLINE Cut(int64_t count, int64_t most) : size(count) {
    if (count <= most) return;
    parts = (count + most - 1) / most, size = count / parts, larger = count - size * parts;
  }
  FASTMAML_INLINE int64_t begin(int64_t part) const {
    return part * size + (part < larger ? part : larger);
  }
};

}  // namespace fastmaml::FASTMAML_ISA
