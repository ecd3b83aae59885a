// The tile on tensor cores: slabs, copies and chains of cuda/tile.cuh, products of cuda/mma.cuh.
//
// The block's 8 warps share the tile: 16 rows each, and as many columns as are left, 32 of the high
// and the narrow tile, 8 of the low one. Factors are rounded on the way from shared memory to
// registers, since asynchronous copies cannot.
#pragma once

#include "cuda/mma.cuh"
#include "cuda/reduce.cuh"
#include "cuda/tiles.cuh"

namespace fastmaml::device {

// A warp reads 4 depths of 8 neighbours at a time: rows 8 words apart from a multiple of 32 put
// them into 32 different banks. A row of a kDeep slab, 20 words long, does so by itself.
constexpr int kTf32Pad = 8;

template <int TM, int TN, class Problem>
class Tf32Tile : private Tile<float, TM, TN, Problem,
                              TileMemory<float, TM, TN, Problem::kDeep, kTf32Pad, kTf32Pad>> {
  using Base =
      Tile<float, TM, TN, Problem, TileMemory<float, TM, TN, Problem::kDeep, kTf32Pad, kTf32Pad>>;

 public:
  using Base::Base;
  using typename Base::Memory;

  template <class Store>
  FASTMAML_DEVICE void run() {
    Sums total = {};
    accumulate(total);
    const Store store(this->problem_);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t i = this->row_ + first_row() + half * 8;
      if (i >= this->problem_.m) continue;
      const auto row = store.row(i);
#pragma unroll
      for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int32_t j = this->column_ + warp_column() + part * kMmaColumns + place() * 2 + c;
          if (j >= this->problem_.n) continue;
          float& sum = total[part][half * 2 + c];
          if constexpr (kLeavesMoments<Store>)
            sum = store(row, j, sum);
          else
            store(row, j, sum);
        }
    }
    if constexpr (kLeavesMoments<Store>)
      if (float* to = store.moments()) leave(to, store.features(), total);
  }

 private:
  static constexpr int kDown = TM / kMmaRows, kAcross = kWarps / kDown;
  static constexpr int kParts = TN / kAcross / kMmaColumns;
  static_assert(kDown * kAcross == kWarps && kParts * kAcross * kMmaColumns == TN);
  using Sums = float[kParts][4];

  // Where the warp's part of the tile begins, and this lane's place in fragments.
  FASTMAML_DEVICE int warp_column() const {
    return this->thread_ / kWarp % kAcross * (kParts * kMmaColumns);
  }
  FASTMAML_DEVICE int group() const { return this->thread_ % kWarp / 4; }
  FASTMAML_DEVICE int place() const { return this->thread_ % 4; }
  FASTMAML_DEVICE int first_row() const {
    return this->thread_ / kWarp / kAcross * kMmaRows + group();
  }

  FASTMAML_DEVICE void leave(float* to, int64_t features, const Sums& value) const {
    const auto column = [this](int c) {
      return warp_column() + c / 2 * kMmaColumns + place() * 2 + c % 2;
    };
    const TileColumns<TN, 4, kDown, 2 * kParts, decltype(column)> columns{
        this->thread_ / kWarp / kAcross, column};
    leave_moments<float, 2>(
        columns, this->count(), [&](int half) { return first_row() + half * 8 < this->count(); },
        [&](int half, int c) { return value[c / 2][half * 2 + c % 2]; }, this->memory_.b,
        this->of_tile(to, features), features,
        static_cast<int32_t>(this->problem_.n) - this->column_);
  }

  FASTMAML_DEVICE void accumulate(Sums& total) {
    Sums chain = {};
    this->each_slab([&](int buffer, int parts, bool chain_ends) {
      multiply(buffer, parts, chain);
      if (!chain_ends) return;
#pragma unroll
      for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int i = 0; i < 4; ++i) total[part][i] += chain[part][i], chain[part][i] = 0;
    });
  }

  static_assert(kPart == kMmaDepth);
  FASTMAML_DEVICE void multiply(int buffer, int parts, Sums& chain) const {
#pragma unroll 2
    for (int mma = 0; mma < parts; ++mma) {
      const int l = mma * kMmaDepth + place();
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i] = to_tf32(*this->memory_.a_at(buffer, first_row() + i % 2 * 8, l + i / 2 * 4));
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int j = warp_column() + part * kMmaColumns + group();
        const uint32_t b[2] = {to_tf32(*this->memory_.b_at(buffer, l, j)),
                               to_tf32(*this->memory_.b_at(buffer, l + 4, j))};
        mma_tf32(chain[part], a, b);
      }
    }
  }
};

// See FmaTiles.
struct Tf32Tiles {
  static constexpr bool kHigh = true, kNarrow = true, kOthers = true;
  // As many rows, and what the compiler keeps for yet another shape would not fit in registers.
  static constexpr TileShape kSmall = TileShape::middle;
  template <int TM, int TN, class Problem>
  using Tile = Tf32Tile<TM, TN, Problem>;
};

}  // namespace fastmaml::device
