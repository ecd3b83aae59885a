// One tile of a contraction: TM x TN outputs of a block of 256 threads, TN / 4 of them across, each
// with 4 columns in registers and as many rows as there are left.
//
// The depth is walked in slabs of kSlab, each copied into shared memory while the one before it is
// multiplied. A `Problem` is a list of segments of the depth and says where their factors lie:
//
//   kDeep                                    // in a, neighbours of l are neighbours in memory
//   int segments();                          bool open(int s, Segment& to);   // false: left out
//   segment.k                                // its depth
//   segment.a_wide, segment.b_wide           // so many neighbours as 16 bytes hold, of i (of l
//   where
//                                            // kDeep) and of j, are 16 aligned bytes
//   Row row(segment, int64_t i);             // what a thread may work out once for a row of a
//   Depth depth(segment, int64_t l);
//   const T* a(segment, Row, Depth), b(segment, int64_t l, int64_t j)         // null: 0
//
// A `store` is told each sum as store(store.row(i), j, sum). Where it may leave moments (see
// ops/moments) it returns what it wrote.
//
// Every output is summed slab by slab in the order of the depth, chains of kChainSlabs slabs being
// added up, whatever the tile and whoever computes it.
#pragma once

#include "cuda/device.cuh"
#include "cuda/tile_shape.hpp"
#include "ops/moments/moments_tile_cuda.cuh"

namespace fastmaml::device {

constexpr int kSlab = 16, kChainSlabs = 16, kTilePad = 4;

// 16 bytes (32 in double) of shared memory.
template <class T>
struct alignas(16) Four {
  T of[4];
};
template <class T>
constexpr int kWide = 16 / static_cast<int>(sizeof(T));  // numbers of a wide copy
template <class T>
struct alignas(16) Wide {
  T of[kWide<T>];
};

// Two slabs of each factor. a lies depth by depth, [kSlab, TM], as the products read it; where it
// is copied along the depth it lies row by row, [TM, kSlab], and is read kWide<T> depths at a time.
template <class T, int TM, int TN, bool kDeep, int kPadA = kTilePad, int kPadB = 0>
struct TileMemory {
  static constexpr int kRow = kDeep ? kSlab + kWide<T> : TM + kPadA, kRowB = TN + kPadB;
  static constexpr int kA = (kDeep ? TM : kSlab) * kRow;
  static constexpr int64_t kNumbers = 2 * (kA + kSlab * kRowB);
  T *a, *b;  // b: [2, kSlab, TN]
  FASTMAML_DEVICE explicit TileMemory(const Block& block) {
    Carve carve(block);
    a = carve.take<T>(2 * kA);
    b = carve.take<T>(2 * kSlab * kRowB);
  }
  FASTMAML_DEVICE T* a_at(int buffer, int i, int l) const {
    return a + buffer * kA + (kDeep ? i * kRow + l : l * kRow + i);
  }
  FASTMAML_DEVICE T* b_at(int buffer, int l, int j) const {
    return b + (buffer * kSlab + l) * kRowB + j;
  }
};

template <class T, int TM, int TN, class Problem,
          class SlabMemory = TileMemory<T, TM, TN, Problem::kDeep>>
class Tile {
 public:
  using Segment = typename Problem::Segment;
  using Memory = SlabMemory;
  static constexpr bool kDeep = Problem::kDeep;
  static constexpr int kColumns = 4, kAcross = TN / kColumns, kRows = TM * kAcross / kThreads;
  static_assert(kRows >= 1 && kRows * kThreads == TM * kAcross);

  // `plain`: some factors lie in shared memory, which asynchronous copies cannot read.
  FASTMAML_DEVICE Tile(const Problem& problem, const Memory& memory, int32_t row, int32_t column,
                       bool plain)
      : problem_(problem), memory_(memory), row_(row), column_(column), plain_(plain) {}

  template <class Store>
  FASTMAML_DEVICE void run(const Store& store) {
    T total[kRows][kColumns] = {};
    accumulate(total);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t i = row_ + first_row() + r;
      if (i >= problem_.m) continue;
      const auto row = store.row(i);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int32_t j = column_ + first_column() + c;
        if (j >= problem_.n) continue;
        if constexpr (kLeavesMoments<Store>)
          total[r][c] = store(row, j, total[r][c]);
        else
          store(row, j, total[r][c]);
      }
    }
    if constexpr (kLeavesMoments<Store>)
      if (T* to = store.moments()) leave(to, store.features(), total);
  }

 protected:
  // The slab that is loaded next.
  struct Cursor {
    Segment segment;
    int s = -1;
    decltype(Segment::k) l = 0;
    bool more = false;
  };
  // Rows of the problem in the tile.
  FASTMAML_DEVICE int32_t count() const {
    const auto left = static_cast<int32_t>(problem_.m) - row_;
    return left < TM ? left : TM;
  }
  // The moments of the tile's columns, to those of the first tile and column.
  FASTMAML_DEVICE void leave(T* to, int64_t features, const T (&value)[kRows][kColumns]) const {
    const auto column = [](int c) { return first_column() + c; };
    const TileColumns<TN, kAcross, kWarps, kColumns, decltype(column)> columns{
        static_cast<int>(threadIdx.x) / kWarp, column};
    leave_moments<T, kRows>(
        columns, count(), [&](int r) { return first_row() + r < count(); },
        [&](int r, int c) { return value[r][c]; }, memory_.b, of_tile(to, features), features,
        static_cast<int32_t>(problem_.n) - column_);
  }
  FASTMAML_DEVICE T* of_tile(T* to, int64_t features) const {
    return to + (int64_t{row_ / TM} * 2 * features + column_);
  }
  FASTMAML_DEVICE static int first_row() { return threadIdx.x / kAcross * kRows; }
  FASTMAML_DEVICE static int first_column() { return threadIdx.x % kAcross * kColumns; }

  FASTMAML_DEVICE void advance(Cursor& at) const {
    if (at.s >= 0 && (at.l += kSlab) < at.segment.k) return;
    at.more = false;
    while (!at.more && ++at.s < problem_.segments())
      at.more = problem_.open(at.s, at.segment) && at.segment.k > 0;
    at.l = 0;
  }

  FASTMAML_DEVICE void accumulate(T (&total)[kRows][kColumns]) {
    T chain[kRows][kColumns] = {};
    each_slab([&](int buffer, bool chain_ends) {
      multiply(buffer, chain);
      if (chain_ends) fold(chain, total);
    });
  }

  // step(buffer, whether a chain ends with it) for every slab, while the next one is copied.
  template <class Step>
  FASTMAML_DEVICE void each_slab(Step&& step) const {
    Cursor at;
    advance(at);
    if (!at.more) return;  // no depth at all
    load(at, 0);
    for (int buffer = 0, slabs = 1; at.more; buffer ^= 1, ++slabs) {
      advance(at);
      if (at.more) {
        load(at, buffer ^ 1);
        copy_wait<1>();
      } else {
        copy_wait<0>();
      }
      __syncthreads();
      step(buffer, slabs % kChainSlabs == 0 || !at.more);
      __syncthreads();
    }
  }

  FASTMAML_DEVICE static void fold(T (&chain)[kRows][kColumns], T (&total)[kRows][kColumns]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) total[r][c] += chain[r][c], chain[r][c] = T(0);
  }

  FASTMAML_DEVICE void multiply(int buffer, T (&chain)[kRows][kColumns]) const {
    constexpr int kDepths = kDeep ? kWide<T> : 1;
#pragma unroll(kDeep ? 1 : 2)
    for (int first = 0; first < kSlab; first += kDepths) {
      T a[kRows][kDepths];
      read_a(buffer, first, a);
#pragma unroll
      for (int l = 0; l < kDepths; ++l) {
        const Four<T> b =
            *reinterpret_cast<const Four<T>*>(memory_.b_at(buffer, first + l, first_column()));
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int c = 0; c < kColumns; ++c) chain[r][c] += a[r][l] * b.of[c];
      }
    }
  }

  template <int kDepths>
  FASTMAML_DEVICE void read_a(int buffer, int l, T (&a)[kRows][kDepths]) const {
    if constexpr (kDeep) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Wide<T> wide =
            *reinterpret_cast<const Wide<T>*>(memory_.a_at(buffer, first_row() + r, l));
#pragma unroll
        for (int d = 0; d < kDepths; ++d) a[r][d] = wide.of[d];
      }
    } else if constexpr (kRows == 4) {
      const Four<T> four = *reinterpret_cast<const Four<T>*>(memory_.a_at(buffer, first_row(), l));
#pragma unroll
      for (int r = 0; r < kRows; ++r) a[r][0] = four.of[r];
    } else {
#pragma unroll
      for (int r = 0; r < kRows; ++r) a[r][0] = *memory_.a_at(buffer, first_row() + r, l);
    }
  }

  FASTMAML_DEVICE void load(const Cursor& at, int buffer) const {
    load_a(at, buffer);
    load_b(at, buffer);
    copy_commit();
  }

  FASTMAML_DEVICE void load_a(const Cursor& at, int buffer) const {
    const int t = threadIdx.x;
    if (!at.segment.a_wide) return copy_rows<1>(at, buffer);
    if constexpr (kDeep) return copy_rows<kWide<T>>(at, buffer);
    constexpr int kPerDepth = TM / kWide<T>, kDown = kThreads / kPerDepth;
    constexpr int kSteps = (kSlab + kDown - 1) / kDown;
    const int i = t % kPerDepth * kWide<T>;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int l = t / kPerDepth + step * kDown;
      if (l < kSlab) copy<kWide<T>>(memory_.a_at(buffer, i, l), a_at(at, row_ + i, at.l + l));
    }
  }

  // Row by row, Count neighbours of depth at a time. Loops of single numbers stay loops: unrolled,
  // their addresses would take the registers of the sums.
  template <int Count>
  FASTMAML_DEVICE void copy_rows(const Cursor& at, int buffer) const {
    constexpr int kPerRow = kSlab / Count, kDown = kThreads / kPerRow;
    constexpr int kSteps = (TM + kDown - 1) / kDown;
    const int t = threadIdx.x, l = t % kPerRow * Count;
#pragma unroll(Count > 1 ? kSteps : 1)
    for (int step = 0; step < kSteps; ++step) {
      const int i = t / kPerRow + step * kDown;
      if (i < TM) copy<Count>(memory_.a_at(buffer, i, l), a_at(at, row_ + i, at.l + l));
    }
  }

  FASTMAML_DEVICE void load_b(const Cursor& at, int buffer) const {
    if (at.segment.b_wide)
      copy_b<kWide<T>>(at, buffer);
    else
      copy_b<1>(at, buffer);
  }
  template <int Count>
  FASTMAML_DEVICE void copy_b(const Cursor& at, int buffer) const {
    constexpr int kPerRow = TN / Count, kDown = kThreads / kPerRow;
    constexpr int kSteps = (kSlab + kDown - 1) / kDown;
    const int t = threadIdx.x, j = t % kPerRow * Count;
#pragma unroll(Count > 1 ? kSteps : 1)
    for (int step = 0; step < kSteps; ++step) {
      const int l = t / kPerRow + step * kDown;
      if (l < kSlab) copy<Count>(memory_.b_at(buffer, l, j), b_at(at, at.l + l, column_ + j));
    }
  }

  FASTMAML_DEVICE const T* a_at(const Cursor& at, int32_t i, int64_t l) const {
    if (i >= problem_.m || l >= at.segment.k) return nullptr;
    const Segment& segment = at.segment;
    return problem_.a(segment, problem_.row(segment, i), problem_.depth(segment, l));
  }
  FASTMAML_DEVICE const T* b_at(const Cursor& at, int64_t l, int32_t j) const {
    return j < problem_.n && l < at.segment.k ? problem_.b(at.segment, l, j) : nullptr;
  }
  // A copy that does not happen still names an address: its target's own would be no global one,
  // so it is the scalar table's, which every call has.
  template <int Count>
  FASTMAML_DEVICE void copy(T* to, const T* from) const {
    if (plain_) {
#pragma unroll
      for (int i = 0; i < Count; ++i) to[i] = from ? from[i] : T(0);
      return;
    }
    copy_async<Count* static_cast<int>(sizeof(T))>(to, from ? from : problem_.anywhere(),
                                                   from != nullptr);
  }

  const Problem& problem_;
  const Memory& memory_;
  const int32_t row_, column_;
  const bool plain_;
};

// How tiles make their products: multiply-adds in T; or see cuda/tile_tf32.cuh.
template <class T>
struct FmaTiles {
  template <int TM, int TN, class Problem>
  using Tile = device::Tile<T, TM, TN, Problem>;
};

// The tiles of a problem that are this block's. `turn` is its next tile, counted from the problem's
// first: one variable for all problems of an instruction deals their tiles out evenly.
template <class Tiles, int TM, int TN, class Problem, class Store>
FASTMAML_DEVICE void run_tiles(const Problem& problem, const Block& block, const Store& store,
                               int32_t& turn) {
  using Task = typename Tiles::template Tile<TM, TN, Problem>;
  const typename Task::Memory memory(block);
  const auto m = static_cast<int32_t>(problem.m), n = static_cast<int32_t>(problem.n);
  const int32_t across = (n + TN - 1) / TN, tiles = across * ((m + TM - 1) / TM);
  for (; turn < tiles; turn += static_cast<int32_t>(block.size))
    Task(problem, memory, turn / across * TM, turn % across * TN, block.local).run(store);
  turn -= tiles;
}

// `rows` chooses the tile: those of all problems of the instruction that a column has.
template <class Tiles, bool kNarrow = false, class Problem, class Store>
FASTMAML_DEVICE void contract(const Problem& problem, const Block& block, const Store& store,
                              int64_t rows, int32_t& turn) {
  if (rows <= kLowRows)
    return run_tiles<Tiles, kLowTile, kTileColumns>(problem, block, store, turn);
  if constexpr (kNarrow)
    if (problem.n <= kNarrowColumns)
      return run_tiles<Tiles, kNarrowTile, kNarrowColumns>(problem, block, store, turn);
  run_tiles<Tiles, kHighTile, kTileColumns>(problem, block, store, turn);
}

}  // namespace fastmaml::device
