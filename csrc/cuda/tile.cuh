// One tile of a contraction: TM x kTileColumns outputs of a block of 256 threads, 16 x 16 of them,
// each with TM / 16 rows and 4 columns in registers.
//
// The depth is walked in slabs of kSlab, each copied into shared memory while the one before it is
// multiplied. A `Problem` is a list of segments of the depth and says where their factors lie:
//
//   int segments();                          bool open(int s, Segment& to);   // false: left out
//   segment.k                                // its depth
//   segment.a_wide, segment.b_wide           // four neighbours of i, of j, are 16 aligned bytes
//   const T* a(segment, int64_t i, int64_t l), b(segment, int64_t l, int64_t j)   // null: 0
//
// Every output is summed slab by slab in the order of the depth, chains of kChainSlabs slabs being
// added up, whatever the tile and whoever computes it.
#pragma once

#include "cuda/device.cuh"

namespace fastmaml::device {

constexpr int kTileColumns = 64, kSlab = 16, kChainSlabs = 16, kTilePad = 4;
constexpr int kTileSide = 16;  // threads along each side of a tile
static_assert(kTileSide * kTileSide == kThreads);

// A row of shared memory of 4 numbers, for 128-bit accesses (two of them in double).
template <class T>
struct alignas(16) Four {
  T of[4];
};

template <class T, int TM>
struct TileMemory {
  static constexpr int kRow = TM + kTilePad;
  T *a, *b;  // [2, kSlab, kRow], [2, kSlab, kTileColumns]
  FASTMAML_DEVICE explicit TileMemory(const Block& block) {
    Carve carve(block);
    a = carve.take<T>(2 * kSlab * kRow);
    b = carve.take<T>(2 * kSlab * kTileColumns);
  }
  FASTMAML_DEVICE T* a_at(int buffer, int l) const { return a + (buffer * kSlab + l) * kRow; }
  FASTMAML_DEVICE T* b_at(int buffer, int l) const {
    return b + (buffer * kSlab + l) * kTileColumns;
  }
};

template <class T, int TM, class Problem>
class Tile {
 public:
  using Segment = typename Problem::Segment;
  static constexpr int kRows = TM / kTileSide, kColumns = kTileColumns / kTileSide;
  static constexpr int kWide = 16 / static_cast<int>(sizeof(T));  // numbers of a wide copy

  // `plain`: some factors lie in shared memory, which asynchronous copies cannot read.
  FASTMAML_DEVICE Tile(const Problem& problem, const TileMemory<T, TM>& memory, int64_t row,
                       int64_t column, bool plain)
      : problem_(problem), memory_(memory), row_(row), column_(column), plain_(plain) {}

  // store(i, j, sum) for each output that exists.
  template <class Store>
  FASTMAML_DEVICE void run(Store&& store) {
    T total[kRows][kColumns] = {};
    accumulate(total);
    const int ty = threadIdx.x / kTileSide, tx = threadIdx.x % kTileSide;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int64_t i = row_ + ty * kRows + r, j = column_ + tx * kColumns + c;
        if (i < problem_.m && j < problem_.n) store(i, j, total[r][c]);
      }
  }

 private:
  // The slab that is loaded next.
  struct Cursor {
    Segment segment;
    int s = -1;
    int64_t l = 0;
    bool more = false;
  };
  FASTMAML_DEVICE void advance(Cursor& at) const {
    if (at.s >= 0 && (at.l += kSlab) < at.segment.k) return;
    at.more = false;
    while (!at.more && ++at.s < problem_.segments())
      at.more = problem_.open(at.s, at.segment) && at.segment.k > 0;
    at.l = 0;
  }

  FASTMAML_DEVICE void accumulate(T (&total)[kRows][kColumns]) {
    T chain[kRows][kColumns] = {};
    Cursor at;
    advance(at);
    int slabs = 0;
    for (int buffer = 0; at.more || slabs == 0; buffer ^= 1) {
      if (slabs == 0) {
        if (!at.more) return;  // no depth at all
        load(at, buffer);
      }
      advance(at);
      if (at.more) {
        load(at, buffer ^ 1);
        copy_wait<1>();
      } else {
        copy_wait<0>();
      }
      __syncthreads();
      multiply(buffer, chain);
      if (++slabs % kChainSlabs == 0 || !at.more) fold(chain, total);
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
    const int ty = threadIdx.x / kTileSide, tx = threadIdx.x % kTileSide;
#pragma unroll
    for (int l = 0; l < kSlab; ++l) {
      T a[kRows];
      if constexpr (kRows == 4) {
        const Four<T> four = *reinterpret_cast<const Four<T>*>(memory_.a_at(buffer, l) + ty * 4);
#pragma unroll
        for (int r = 0; r < kRows; ++r) a[r] = four.of[r];
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) a[r] = memory_.a_at(buffer, l)[ty * kRows + r];
      }
      const Four<T> b = *reinterpret_cast<const Four<T>*>(memory_.b_at(buffer, l) + tx * 4);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) chain[r][c] += a[r] * b.of[c];
    }
  }

  FASTMAML_DEVICE void load(const Cursor& at, int buffer) const {
    load_a(at, buffer);
    load_b(at, buffer);
    copy_commit();
  }

  FASTMAML_DEVICE void load_a(const Cursor& at, int buffer) const {
    const int t = threadIdx.x;
    if (at.segment.a_wide) {  // four neighbours of i at a time
      constexpr int kAcross = TM / kWide, kDown = kThreads / kAcross;
      for (int l = t / kAcross; l < kSlab; l += kDown) {
        const int i = t % kAcross * kWide;
        copy<kWide>(memory_.a_at(buffer, l) + i, a_at(at, row_ + i, at.l + l));
      }
      return;
    }
    constexpr int kDown = kThreads / kSlab;
#pragma unroll
    for (int i = t / kSlab; i < TM; i += kDown) {
      const int l = t % kSlab;
      copy<1>(memory_.a_at(buffer, l) + i, a_at(at, row_ + i, at.l + l));
    }
  }

  FASTMAML_DEVICE void load_b(const Cursor& at, int buffer) const {
    const int t = threadIdx.x;
    if (at.segment.b_wide) {
      constexpr int kAcross = kTileColumns / kWide, kDown = kThreads / kAcross;
#pragma unroll
      for (int l = t / kAcross; l < kSlab; l += kDown) {
        const int j = t % kAcross * kWide;
        copy<kWide>(memory_.b_at(buffer, l) + j, b_at(at, at.l + l, column_ + j));
      }
      return;
    }
    constexpr int kDown = kThreads / kTileColumns;
#pragma unroll
    for (int l = t / kTileColumns; l < kSlab; l += kDown) {
      const int j = t % kTileColumns;
      copy<1>(memory_.b_at(buffer, l) + j, b_at(at, at.l + l, column_ + j));
    }
  }

  FASTMAML_DEVICE const T* a_at(const Cursor& at, int64_t i, int64_t l) const {
    return i < problem_.m && l < at.segment.k ? problem_.a(at.segment, i, l) : nullptr;
  }
  FASTMAML_DEVICE const T* b_at(const Cursor& at, int64_t l, int64_t j) const {
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
  const TileMemory<T, TM>& memory_;
  const int64_t row_, column_;
  const bool plain_;
};

// The tiles of a problem that are this block's, of TM rows each.
template <class T, int TM, class Problem, class Store>
FASTMAML_DEVICE void run_tiles(const Problem& problem, const Block& block, Store&& store) {
  const TileMemory<T, TM> memory(block);
  const int64_t across = (problem.n + kTileColumns - 1) / kTileColumns;
  const int64_t tiles = across * ((problem.m + TM - 1) / TM);
  for (int64_t tile = block.rank; tile < tiles; tile += block.size)
    Tile<T, TM, Problem>(problem, memory, tile / across * TM, tile % across * kTileColumns, block.local)
        .run(store);
}

// Few rows take the low tile: a task's support set rarely fills the high one.
constexpr int kHighTile = 64, kLowTile = 16;
constexpr int64_t kLowRows = 24;  // up to so many

template <class T, class Problem, class Store>
FASTMAML_DEVICE void contract(const Problem& problem, const Block& block, Store&& store) {
  if (problem.m <= kLowRows)
    run_tiles<T, kLowTile>(problem, block, store);
  else
    run_tiles<T, kHighTile>(problem, block, store);
}

// How many blocks a problem can occupy.
constexpr int64_t tile_count(int64_t m, int64_t n) {
  const int64_t rows = m <= kLowRows ? kLowTile : kHighTile;
  return (m + rows - 1) / rows * ((n + kTileColumns - 1) / kTileColumns);
}

}  // namespace fastmaml::device
