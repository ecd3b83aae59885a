// The tile of a deep sum: its threads fall into groups, each of which has all outputs, 8 x 4 or
// 4 x 4 a thread, and some parts of the depth. A thread of Tile has fewer outputs, whose factors it
// reads from shared memory for longer than it multiplies.
//
// The groups' sums are added up in the end, so that an output is not summed as by other tiles: who
// takes this one must follow from the shapes alone.
#pragma once

#include "cuda/tile.cuh"

namespace fastmaml::device {

template <class T, int TM, int TN, class Problem>
class SplitTile : private Tile<T, TM, TN, Problem> {
  using Base = Tile<T, TM, TN, Problem>;
  static constexpr int kColumns = Base::kColumns, kQuad = 4;
  static constexpr int kRows = Base::kRows;  // that a thread keeps of those it summed
  static constexpr int kSummed = kRows > 1 ? 8 : 4, kGroups = kSummed / kRows;
  static constexpr int kGroup = kThreads / kGroups;
  static_assert(kGroup % kWarp == 0 && kSlab<T> % (kGroups * kPart) == 0);

 public:
  using Base::Base;
  using typename Base::Memory;

  template <class Store>
  FASTMAML_DEVICE void run() {
    T total[kRows][kColumns];
    {
      T sum[kSummed][kColumns] = {};
      this->each_slab([&](int buffer, int parts, bool) {
#pragma unroll 1
        for (int part = group(); part < parts; part += kGroups) multiply(buffer, part, sum);
      });
      add_up(sum, total);
    }
    const Store store(this->problem_);
    this->put(store, total, [this](int r) { return kept_row(r); });
    if constexpr (kLeavesMoments<Store>)
      if (T* to = store.moments()) leave(to, store.features(), total);
  }

 private:
  FASTMAML_DEVICE int group() const { return this->thread_ / kGroup; }
  FASTMAML_DEVICE int row_of(int r) const {
    constexpr int kDown = Base::kLanesDown;
    const int first = this->thread_ % kGroup / kWarp / Base::kWarpsAcross * (kDown * kSummed);
    const int lane = this->thread_ % kWarp / Base::kLanesAcross;
    // As Tile::row_of.
    if (Base::kDeep) return first + r * kDown + lane;
    return first + (r / kQuad * kDown + lane) * kQuad + r % kQuad;
  }
  FASTMAML_DEVICE int kept_row(int r) const {
    return row_of(group() * kRows) + r * (Base::kDeep ? Base::kLanesDown : 1);
  }

  FASTMAML_DEVICE void multiply(int buffer, int part, T (&sum)[kSummed][kColumns]) const {
#pragma unroll
    for (int l = part * kPart, end = l + kPart; l < end; ++l) {
      T a[kSummed];
      read_a(buffer, l, a);
      const Four<T> b =
          *reinterpret_cast<const Four<T>*>(this->memory_.b_at(buffer, l, this->first_column()));
#pragma unroll
      for (int r = 0; r < kSummed; ++r)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) sum[r][c] = multiply_add(a[r], b.of[c], sum[r][c]);
    }
  }
  // Row by row one number at a time: of 4 depths they would take the registers of the sums, and are
  // read no faster.
  FASTMAML_DEVICE void read_a(int buffer, int l, T (&a)[kSummed]) const {
#pragma unroll
    for (int r = 0; r < kSummed; r += Base::kDeep ? 1 : kQuad) {
      const T* const from = this->memory_.a_at(buffer, row_of(r), l);
      if constexpr (Base::kDeep) {
        a[r] = *from;
      } else {
        const Four<T> four = *reinterpret_cast<const Four<T>*>(from);
#pragma unroll
        for (int i = 0; i < kQuad; ++i) a[r + i] = four.of[i];
      }
    }
  }

  // Through the memory of the slabs, which are used up: each group gets the sums of its rows.
  FASTMAML_DEVICE void add_up(const T (&sum)[kSummed][kColumns],
                              T (&total)[kRows][kColumns]) const {
    constexpr int kEach = kRows * kColumns;
    constexpr bool kInA = Memory::kA > Memory::kB;
    static_assert(kEach * kThreads <= Memory::kStages * (kInA ? Memory::kA : Memory::kB));
    T* const memory = kInA ? this->memory_.a : this->memory_.b;
    const int place = this->thread_ % kGroup;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int i = 0; i < kEach; ++i)
        memory[i * kThreads + this->thread_] = sum[g * kRows + i / kColumns][i % kColumns];
      __syncthreads();
      if (g == group())
#pragma unroll
        for (int i = 0; i < kEach; ++i)
          total[i / kColumns][i % kColumns] = over_groups(memory + (i * kThreads + place));
      __syncthreads();
    }
  }

  FASTMAML_DEVICE static T over_groups(const T* of) {
    T all = of[0];
#pragma unroll
    for (int g = 1; g < kGroups; ++g) all += of[g * kGroup];
    return all;
  }

  FASTMAML_DEVICE void leave(T* to, int64_t features, const T (&value)[kRows][kColumns]) const {
    const auto column = [this](int c) { return this->first_column() + c; };
    const TileColumns<TN, Base::kLanesAcross, kWarps / Base::kWarpsAcross, kColumns,
                      decltype(column)>
        columns{this->thread_ / kWarp / Base::kWarpsAcross, column};
    leave_moments<T, kRows>(
        columns, this->count(), [&](int r) { return kept_row(r) < this->count(); },
        [&](int r, int c) { return value[r][c]; }, this->memory_.b, this->of_tile(to, features),
        features, this->problem_.n - this->column_);
  }
};

}  // namespace fastmaml::device
