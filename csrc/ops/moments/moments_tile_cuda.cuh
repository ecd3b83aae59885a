// moments on the device: of the columns of a tile, whose sums still lie in registers.
//
// The threads of a column are lanes of a warp and some warps. Sums go over a thread's rows, pairs
// of lanes and warps, in that order; the mean comes before the squared deviations from it.
#pragma once

#include "cuda/columns.cuh"

namespace fastmaml::device {

// What a store has where it may leave moments: where those of the first tile's rows go (null: they
// are not wanted), and how many numbers lie between a mean and its squares.
template <class Store>
constexpr bool kLeavesMoments = requires(const Store& store) {
  store.moments();
  store.features();
};

// How a tile of TN columns lies in its block: kNeighbours lanes have columns side by side, kDown
// warps share each column. This thread's warp is number `down` of them; its columns in the tile are
// column(0), ..., column(C - 1).
template <int TN, int kNeighbours, int kDown, int C, class Column>
struct TileColumns {
  int down;
  Column column;

  FASTMAML_DEVICE bool first_lane() const { return threadIdx.x % kWarp < kNeighbours; }
  // sum[c] over all rows, for every thread; `memory` has room for kDown x TN numbers.
  template <class T>
  FASTMAML_DEVICE void add_up(T (&sum)[C], T* memory) const {
#pragma unroll
    for (int c = 0; c < C; ++c) {
#pragma unroll
      for (int apart = kWarp / 2; apart >= kNeighbours; apart /= 2)
        sum[c] += from_lane_across(sum[c], apart);
      if (first_lane()) memory[down * TN + column(c)] = sum[c];
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < C; ++c) sum[c] = 0;
// A loop: all loads together would take the registers of the products.
#pragma unroll 1
    for (int warp = 0; warp < kDown; ++warp)
#pragma unroll
      for (int c = 0; c < C; ++c) sum[c] += memory[warp * TN + column(c)];
  }
};

// The moments of `count` rows: value(r, c) for this thread's rows r < R, those that there(r) says
// are in the problem. `to` is where the tile's first column goes, of which `width` exist. `memory`
// has room for 2 x kDown x TN numbers, and is free again after.
template <class T, int R, int TN, int kNeighbours, int kDown, int C, class Column, class There,
          class Value>
FASTMAML_DEVICE void leave_moments(const TileColumns<TN, kNeighbours, kDown, C, Column>& columns,
                                   int32_t count, There&& there, Value&& value, T* memory, T* to,
                                   int64_t features, int32_t width) {
#if defined(__CUDA_ARCH__)
  // Addresses must be worked out here: the compiler would do it once for all tiles, and keep them
  // in registers that the products need.
  asm volatile("" : "+l"(memory), "+l"(to), "+l"(features));
#endif
  T mean[C], squares[C];
#pragma unroll
  for (int c = 0; c < C; ++c) {
    mean[c] = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) mean[c] += there(r) ? value(r, c) : T(0);
  }
  columns.add_up(mean, memory);
#pragma unroll
  for (int c = 0; c < C; ++c) {
    mean[c] *= 1 / static_cast<T>(count), squares[c] = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const T d = there(r) ? value(r, c) - mean[c] : T(0);
      squares[c] += d * d;
    }
  }
  columns.add_up(squares, memory + kDown * TN);
#pragma unroll
  for (int c = 0; c < C; ++c) {
    const int j = columns.column(c);
    if (columns.down > 0 || !columns.first_lane() || j >= width) continue;
    to[j] = mean[c], to[features + j] = squares[c];
  }
  __syncthreads();
}

}  // namespace fastmaml::device
