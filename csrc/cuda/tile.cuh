// One tile of a contraction: TM x TN outputs of a block of 256 threads, each with 4 columns in
// registers and as many rows as there are left. A warp is 8 threads across and 4 down, so that what
// it reads of a slab at once is a row of all banks.
//
// The depth is walked in slabs of kSlab, copied into shared memory some slabs before they are
// multiplied: a block that has a multiprocessor to itself hides the way to memory by nothing else.
// Of the last slab of a segment only the parts of kPart are multiplied that have any depth.
//
// A `Problem` is a list of segments of the depth and says where their factors lie:
//
//   kDeep                                    // in a, neighbours of l are neighbours in memory
//   int segments();                          void open(int s, Segment& to);
//   segment.k                                // its depth
//   segment.a_wide, segment.b_wide           // so many neighbours as 16 bytes hold, of i (where
//                                            // kDeep, of l) and of j, are 16 aligned bytes
//   Row row(segment, int32_t i);             // what a thread may work out once for a row of a
//   Depth depth(segment, int32_t l);
//   Spot spot(segment, Row, Depth);          // looked up in a table, say, a slab before it is read
//   bool there(segment, Spot);               // else 0
//   const T* a(segment, Spot), b(segment, int32_t l, int32_t j)    // of what is there
//
// A `Store` is made of the problem when the sums are there, so that nothing of it takes a register
// before, and told each of them as store(store.row(i), j, sum). Where it may leave moments (see
// ops/moments) it returns what it wrote.
//
// Every output is summed slab by slab in the order of the depth, chains of kChainSlabs slabs being
// added up, whatever the tile and whoever computes it.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/tile_shape.hpp"
#include "ops/moments/moments_tile_cuda.cuh"

namespace fastmaml::device {

template <class T>
constexpr int kSlab = sizeof(T) == sizeof(float) ? 32 : 16;
template <class T>
constexpr int kChainSlabs = 256 / kSlab<T>;
constexpr int kPart = 8, kTilePad = 4, kMostStages = 6;

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

// As many slabs of each factor as there is memory for. a lies depth by depth, [kSlab, TM], as the
// products read it; where it is copied along the depth it lies row by row, [TM, kSlab], and is read
// kWide<T> depths at a time.
template <class T, int TM, int TN, bool kDeep, int kPadA = kTilePad, int kPadB = 0>
struct TileMemory {
  static constexpr int kDepth = kSlab<T>;
  static constexpr int kRow = kDeep ? kDepth + kWide<T> : TM + kPadA, kRowB = TN + kPadB;
  static constexpr int kA = (kDeep ? TM : kDepth) * kRow, kB = kDepth * kRowB;
  static constexpr int kFit = static_cast<int>(kTileBytes<T> / ((kA + kB) * sizeof(T)));
  static constexpr int kStages = kFit < kMostStages ? kFit : kMostStages;
  static_assert(kStages >= 2);
  T *a, *b;  // b: [kStages, kSlab, TN]
  FASTMAML_DEVICE explicit TileMemory(const Block& block) {
    Carve carve(block);
    a = carve.take<T>(kStages * kA);
    b = carve.take<T>(kStages * kB);
  }
  FASTMAML_DEVICE T* a_at(int buffer, int i, int l) const {
    return a + buffer * kA + (kDeep ? i * kRow + l : l * kRow + i);
  }
  FASTMAML_DEVICE T* b_at(int buffer, int l, int j) const {
    return b + (buffer * kDepth + l) * kRowB + j;
  }
};

template <class T, int R, int C>
FASTMAML_DEVICE void fold_chains(T (&chain)[R][C], T (&total)[R][C]) {
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c) total[r][c] += chain[r][c], chain[r][c] = T(0);
}

template <class T, int TM, int TN, class Problem,
          class SlabMemory = TileMemory<T, TM, TN, Problem::kDeep>>
class Tile {
 public:
  using Segment = typename Problem::Segment;
  using Memory = SlabMemory;
  static constexpr bool kDeep = Problem::kDeep;
  static constexpr int kDepth = kSlab<T>;
  static constexpr int kColumns = 4, kRows = TM * TN / kColumns / kThreads;
  static_assert(kRows >= 1 && kRows * kColumns * kThreads == TM * TN);

  FASTMAML_DEVICE Tile(const Problem& problem, const Memory& memory, int32_t row, int32_t column)
      : problem_(problem), memory_(memory), row_(row), column_(column), thread_(threadIdx.x) {
#if defined(__CUDA_ARCH__)
    // What depends on the thread must be worked out here: the compiler would do it once for all
    // kinds of tiles, and keep it in registers that the products need.
    asm volatile("" : "+r"(thread_));
    // Nor is the address of shared memory worked out for every copy.
    shared_ = shared_address(memory.a);
    asm volatile("" : "+r"(shared_));
#endif
  }

  template <class Store>
  FASTMAML_DEVICE void run() {
    T total[kRows][kColumns] = {};
    accumulate(total);
    const Store store(problem_);
    put(store, total, [this](int r) { return row_of(r); });
    if constexpr (kLeavesMoments<Store>)
      if (T* to = store.moments()) leave(to, store.features(), total);
  }

 protected:
  // The thread's sums, those of row r of them being for row_at(r) of the tile.
  template <class Store, class RowAt>
  FASTMAML_DEVICE void put(const Store& store, T (&total)[kRows][kColumns], RowAt&& row_at) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t i = row_ + row_at(r);
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
  }

  // How a thread's share of a slab of a lies, where it is copied 16 bytes at a time.
  static constexpr int kWideA = kWide<T>;
  static constexpr int kAside = (kDeep ? kDepth : TM) / kWideA;  // threads side by side
  // Rows, or depths, from one copy to the next.
  static constexpr int kApart = kThreads / kAside;
  static constexpr int kApartIn = kDeep ? TM : kDepth;
  static constexpr int kCopies = (kApartIn + kApart - 1) / kApart;
  // More than two would take the registers of the sums.
  static constexpr bool kHolds = !kDeep || kCopies <= 2;
  static constexpr int kRowsHeld = kDeep && kHolds ? kCopies : 1;
  FASTMAML_DEVICE int along() const { return thread_ % kAside * kWideA; }
  FASTMAML_DEVICE int across() const { return thread_ / kAside; }

  // The slab that is loaded next, and what this thread copies of it.
  struct Cursor {
    Segment segment;
    typename Problem::Row row[kRowsHeld];
    typename Problem::Spot spot[kCopies];
    int s = -1;
    int32_t l = 0;
    FASTMAML_DEVICE bool more() const { return segment.k > 0; }
  };
  // Rows of the problem in the tile.
  FASTMAML_DEVICE int32_t count() const {
    const int32_t left = problem_.m - row_;
    return left < TM ? left : TM;
  }
  // The moments of the tile's columns, to those of the first tile and column.
  FASTMAML_DEVICE void leave(T* to, int64_t features, const T (&value)[kRows][kColumns]) const {
    const auto column = [this](int c) { return first_column() + c; };
    const TileColumns<TN, kLanesAcross, kWarps / kWarpsAcross, kColumns, decltype(column)> columns{
        thread_ / kWarp / kWarpsAcross, column};
    leave_moments<T, kRows>(
        columns, count(), [&](int r) { return row_of(r) < count(); },
        [&](int r, int c) { return value[r][c]; }, memory_.b, of_tile(to, features), features,
        problem_.n - column_);
  }
  FASTMAML_DEVICE T* of_tile(T* to, int64_t features) const {
    return to + (int64_t{row_ / TM} * 2 * features + column_);
  }
  // The thread's sums. Where a lies row by row, a warp's rows are dealt out one by one: neighbours
  // in memory meet no bank twice, rows kRows apart would.
  static constexpr int kLanesAcross = 8, kLanesDown = kWarp / kLanesAcross;
  static constexpr int kWarpsAcross = TN / (kLanesAcross * kColumns);
  FASTMAML_DEVICE int row_of(int r) const {
    const int warp = thread_ / kWarp / kWarpsAcross, lane = thread_ % kWarp / kLanesAcross;
    return warp * (kLanesDown * kRows) + (kDeep ? r * kLanesDown + lane : lane * kRows + r);
  }
  FASTMAML_DEVICE int first_column() const {
    const int warp = thread_ / kWarp % kWarpsAcross, lane = thread_ % kLanesAcross;
    return (warp * kLanesAcross + lane) * kColumns;
  }

  FASTMAML_DEVICE void advance(Cursor& at) const {
    at.l += kDepth;
    if (at.s < 0 || at.l >= at.segment.k) open_next(at);
    if (at.more() && at.segment.a_wide) find(at);
  }
  FASTMAML_DEVICE void open_next(Cursor& at) const {
    at.l = at.segment.k = 0;
    while (!at.more() && ++at.s < problem_.segments()) problem_.open(at.s, at.segment);
    if (!at.more() || !kHolds) return;
#pragma unroll
    for (int r = 0; r < kRowsHeld; ++r)
      at.row[r] = row_at(at, kDeep ? across() + r * kApart : along());
  }
  // Beyond the last row or depth, the first one's: no place is looked up that is not there, and
  // addresses stay aligned.
  FASTMAML_DEVICE typename Problem::Row row_at(const Cursor& at, int i) const {
    const int32_t row = row_ + i;
    return problem_.row(at.segment, row < problem_.m ? row : 0);
  }
  // The tables are read here, so that the products hide how long that takes.
  FASTMAML_DEVICE void find(Cursor& at) const {
#pragma unroll
    for (int copy_of = 0; copy_of < kCopies; ++copy_of) {
      const int other = across() + copy_of * kApart;
      const int32_t l = at.l + (kDeep ? along() : other);
      at.spot[copy_of] = problem_.spot(
          at.segment, kHolds ? at.row[kDeep ? copy_of % kRowsHeld : 0] : row_at(at, other),
          problem_.depth(at.segment, l < at.segment.k ? l : 0));
    }
  }

  FASTMAML_DEVICE void accumulate(T (&total)[kRows][kColumns]) {
    T chain[kRows][kColumns] = {};
    each_slab([&](int buffer, int parts, bool chain_ends) {
      multiply(buffer, parts, chain);
      if (chain_ends) fold_chains(chain, total);
    });
  }

  // step(buffer, its parts, whether a chain ends with it) for every slab, while those after it are
  // copied. Before the first one, as many are begun as there is room for beside it.
  template <class Step>
  FASTMAML_DEVICE void each_slab(Step&& step) const {
    constexpr int kStages = Memory::kStages;
    Cursor at{};
    advance(at);
    int begun = 0, buffer = 0;
    uint32_t waiting = 0;  // parts of the slabs that are begun, in 4 bits each
    static_assert(kDepth / kPart < 16 && kStages <= 8);
    for (int slab = 2 - kStages;; ++slab) {
      if (slab > 0) {
        if (slab > begun) break;
        copy_wait<kStages - 2>();
        __syncthreads();
      }
      waiting <<= 4;
      if (at.more()) {
        const int32_t left = at.segment.k - at.l;
        waiting |= static_cast<uint32_t>((left < kDepth ? left + kPart - 1 : kDepth) / kPart);
        load(at, buffer);
        advance(at), ++begun;
      }
      copy_commit();
      // The next one to be filled is the one that has waited longest.
      buffer = buffer + 1 == kStages ? 0 : buffer + 1;
      if (slab > 0)
        step(buffer, static_cast<int>(waiting >> (4 * (kStages - 1)) & 15),
             slab % kChainSlabs<T> == 0 || slab == begun);
    }
    __syncthreads();
  }

  FASTMAML_DEVICE void multiply(int buffer, int parts, T (&chain)[kRows][kColumns]) const {
    constexpr int kDepths = kDeep ? kWide<T> : 1;
#pragma unroll 1
    for (int part = 0; part < parts; ++part) {
#pragma unroll
      for (int first = 0; first < kPart; first += kDepths) {
        const int from = part * kPart + first;
        T a[kRows][kDepths];
        read_a(buffer, from, a);
#pragma unroll
        for (int l = 0; l < kDepths; ++l) {
          const Four<T> b =
              *reinterpret_cast<const Four<T>*>(memory_.b_at(buffer, from + l, first_column()));
#pragma unroll
          for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int c = 0; c < kColumns; ++c)
              chain[r][c] = multiply_add(a[r][l], b.of[c], chain[r][c]);
        }
      }
    }
  }

  template <int kDepths>
  FASTMAML_DEVICE void read_a(int buffer, int l, T (&a)[kRows][kDepths]) const {
    if constexpr (kDeep) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Wide<T> wide = *reinterpret_cast<const Wide<T>*>(memory_.a_at(buffer, row_of(r), l));
#pragma unroll
        for (int d = 0; d < kDepths; ++d) a[r][d] = wide.of[d];
      }
    } else if constexpr (kRows == 4) {
      const Four<T> four = *reinterpret_cast<const Four<T>*>(memory_.a_at(buffer, row_of(0), l));
#pragma unroll
      for (int r = 0; r < kRows; ++r) a[r][0] = four.of[r];
    } else {
#pragma unroll
      for (int r = 0; r < kRows; ++r) a[r][0] = *memory_.a_at(buffer, row_of(r), l);
    }
  }

  FASTMAML_DEVICE void load(const Cursor& at, int buffer) const {
    if (at.segment.a_wide)
      load_a(at, buffer);
    else
      load_numbers(at, buffer);
    load_b(at, buffer);
  }

  FASTMAML_DEVICE void load_a(const Cursor& at, int buffer) const {
#pragma unroll
    for (int copy_of = 0; copy_of < kCopies; ++copy_of) {
      const int other = across() + copy_of * kApart;
      if (kCopies * kApart > kApartIn && other >= kApartIn) continue;
      const int i = kDeep ? other : along(), l = kDeep ? along() : other;
      copy<kWideA>(memory_.a_at(buffer, i, l), problem_.a(at.segment, at.spot[copy_of]),
                   row_ + i < problem_.m && at.l + l < at.segment.k &&
                       problem_.there(at.segment, at.spot[copy_of]));
    }
  }

  // The same number by number.
  FASTMAML_DEVICE void load_numbers(const Cursor& at, int buffer) const {
    constexpr int kDown = kThreads / kDepth, kSteps = (TM + kDown - 1) / kDown;
    const int l = thread_ % kDepth;
#pragma unroll 2
    for (int step = 0; step < kSteps; ++step) {
      const int i = thread_ / kDepth + step * kDown;
      if (i >= TM) continue;
      const int32_t depth = at.l + l;
      const auto spot = problem_.spot(at.segment, row_at(at, i),
                                      problem_.depth(at.segment, depth < at.segment.k ? depth : 0));
      copy<1>(memory_.a_at(buffer, i, l), problem_.a(at.segment, spot),
              row_ + i < problem_.m && depth < at.segment.k && problem_.there(at.segment, spot));
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
    constexpr int kSteps = (kDepth + kDown - 1) / kDown;
    const int t = thread_, j = t % kPerRow * Count;
#pragma unroll(Count > 1 ? kSteps : 2)
    for (int step = 0; step < kSteps; ++step) {
      const int l = t / kPerRow + step * kDown;
      if (kSteps * kDown > kDepth && l >= kDepth) continue;
      const int32_t depth = at.l + l;
      const bool there = depth < at.segment.k;
      copy<Count>(memory_.b_at(buffer, l, j),
                  problem_.b(at.segment, there ? depth : 0, column_ + j),
                  there && column_ + j < problem_.n);
    }
  }

  // Nothing is read where nothing is there, wherever `from` points to.
  template <int Count>
  FASTMAML_DEVICE void copy(T* to, const T* from, bool there) const {
    constexpr int kBytes = Count * static_cast<int>(sizeof(T));
#if defined(__CUDA_ARCH__)
    copy_async_to<kBytes>(shared_ + static_cast<unsigned>((to - memory_.a) * sizeof(T)), from,
                          there);
#else
    copy_async<kBytes>(to, from, there);
#endif
  }

  const Problem& problem_;
  const Memory& memory_;
  const int32_t row_, column_;
  int thread_;
#if defined(__CUDA_ARCH__)
  unsigned shared_;
#endif
};

}  // namespace fastmaml::device
