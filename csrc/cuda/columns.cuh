// A set of numbers shared out among threads: sums in one fixed order, and writes in batches.
//
// Member `lane` of `lanes` takes every lanes-th number. It sums them in chains that are then added
// up, so that rounding grows with chains and not with numbers; the members' sums are joined pair by
// pair within a warp, and warp by warp after that.
#pragma once

#include "cuda/reduce.cuh"

namespace fastmaml::device {

// A quotient of counts, in 32 bits: 64-bit divisions take several times as long and a branch, and
// no device holds a task of so many rows, or a row of so many numbers.
FASTMAML_DEVICE int64_t quotient(int64_t a, int64_t b) {
  return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
}

// What this member sums: term(i) for its numbers below n. `Sum` is T, or a struct with +=.
template <class Sum, class Term>
FASTMAML_DEVICE Sum sum_chains(int lane, int lanes, int64_t n, Term&& term) {
  constexpr int kChain = 128;
  Sum total{};
  for (int64_t i = lane; i < n;) {
    const int64_t left = quotient(n - i + lanes - 1, lanes);
    const int count = left < kChain ? static_cast<int>(left) : kChain;
    Sum chain{};
#pragma unroll 4
    for (int k = 0; k < count; ++k, i += lanes) chain += term(i);
    total += chain;
  }
  return total;
}

// store(i, value(i)) for this member's numbers below n. Values are made four at a time, without a
// branch between them and before any is stored, so that their loads are under way together: the
// compiler must take every store for one that changes what is loaded next. Past the end the first
// one is made again, which nobody else writes.
template <class T, class Value, class Store>
FASTMAML_DEVICE void store_each(int lane, int lanes, int64_t n, Value&& value, Store&& store) {
  constexpr int kBatch = 4;
  for (int64_t first = lane; first < n; first += kBatch * lanes) {
    T made[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
      made[k] = value(first + k * lanes < n ? first + k * lanes : first);
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
      if (first + k * lanes < n) store(first + k * lanes, made[k]);
  }
}

template <class T>
FASTMAML_DEVICE T from_lane_across(T value, int apart) {
  return __shfl_xor_sync(kAllLanes, value, apart);
}

// A block as columns side by side: neighbouring threads have neighbouring columns, and the threads
// of a column share its rows. One column alone is a set for the whole block; a warp may also have a
// set of its own, and then waits for no other.
struct Columns {
  static constexpr int kMost = kWarp;
  int count, column, lane, lanes;  // count: a power of two, at most kMost
  bool alone;                      // a warp that shares nothing

  FASTMAML_DEVICE explicit Columns(int columns, bool by_warp = false)
      : count(by_warp ? 1 : columns),
        column(by_warp ? 0 : static_cast<int>(threadIdx.x) % columns),
        lane(by_warp ? static_cast<int>(threadIdx.x) % kWarp
                     : static_cast<int>(threadIdx.x) / columns),
        lanes(by_warp ? kWarp : kThreads / columns),
        alone(by_warp) {}

  // How many columns: as many as make whole cache lines, fewer where long columns need the threads
  // (a row of 8 still is a whole sector) or where there are no more.
  static constexpr int choose(int64_t rows, int64_t columns) {
    constexpr int kFewest = 8, kRowsEach = 32;
    int count = kMost;
    while (count > kFewest && rows > kRowsEach * (kThreads / count)) count /= 2;
    while (count > 1 && count / 2 >= columns) count /= 2;
    return count;
  }
  // The blocks' worth of columns.
  static constexpr int64_t chunks(int64_t rows, int64_t columns) {
    const int count = choose(rows, columns);
    return (columns + count - 1) / count;
  }

  // The sum of term(i) over a column's rows i, for all its threads. Unless the warp is alone, all
  // threads of the block come here, those without a column with no rows. `memory` has room for
  // kWarps * kMost sums and is free again after.
  template <class Sum, class Term>
  FASTMAML_DEVICE Sum sum(int64_t rows, Sum* memory, Term&& term) const {
    Sum own = sum_chains<Sum>(lane, lanes, rows, term);
    for (int apart = kWarp / 2; apart >= count; apart /= 2) own += from_lane_across(own, apart);
    if (alone) return own;
    const int warp = threadIdx.x / kWarp, place = threadIdx.x % kWarp;
    if (place < count) memory[warp * kMost + place] = own;
    __syncthreads();
    Sum total{};
#pragma unroll
    for (int other = 0; other < kWarps; ++other) total += memory[other * kMost + column];
    __syncthreads();
    return total;
  }
  // See store_each.
  template <class T, class Value, class Store>
  FASTMAML_DEVICE void each(int64_t rows, Value&& value, Store&& store) const {
    store_each<T>(lane, lanes, rows, value, store);
  }
};

}  // namespace fastmaml::device
