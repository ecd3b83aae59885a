// taps on the device: a thread a window and feature; sums over windows are one block's for each
// chunk of features, and are read again for it, so that pixels can be shared by all blocks.
#pragma once

#include "cuda/columns.cuh"
#include "ops/taps/taps.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<TapArgs> = {72, 96};

// The windows of some images, and the pixels that they do not have.
struct PoolWindows {
  int in_h, in_w, out_h, out_w, kernel_h, kernel_w;  // an image's pixels can be counted in an int

  FASTMAML_DEVICE explicit PoolWindows(const PoolSize& pool)
      : in_h(static_cast<int>(pool.in_h)),
        in_w(static_cast<int>(pool.in_w)),
        out_h(static_cast<int>(pool.out_h)),
        out_w(static_cast<int>(pool.out_w)),
        kernel_h(static_cast<int>(pool.kernel_h)),
        kernel_w(static_cast<int>(pool.kernel_w)) {}

  // Of an image: its windows, the pixels beside them, and those and the ones below.
  FASTMAML_DEVICE int windows() const { return out_h * out_w; }
  FASTMAML_DEVICE int beside() const { return out_h * kernel_h * (in_w - out_w * kernel_w); }
  FASTMAML_DEVICE int outside() const { return beside() + (in_h - out_h * kernel_h) * in_w; }

  // The row of a window's first tap.
  FASTMAML_DEVICE int64_t first_row(int64_t window) const {
    const int64_t image = quotient(window, windows());
    const int at = static_cast<int>(window - image * windows()), y = at / out_w;
    return image * (in_h * in_w) + y * kernel_h * in_w + (at - y * out_w) * kernel_w;
  }
  FASTMAML_DEVICE int64_t row_of(int64_t first, int tap) const {
    const int dy = tap / kernel_w;
    return first + dy * in_w + (tap - dy * kernel_w);
  }
  // The i-th row of all images that no window has.
  FASTMAML_DEVICE int64_t outside_row(int64_t i) const {
    const int64_t image = quotient(i, outside()), first = image * (in_h * in_w);
    const int at = static_cast<int>(i - image * outside());
    if (at >= beside()) return first + out_h * kernel_h * in_w + (at - beside());
    const int covered = out_w * kernel_w, y = at / (in_w - covered);
    return first + y * in_w + covered + (at - y * (in_w - covered));
  }
  // body(row, tap) for the taps of the window whose first tap is at `row`, in order.
  template <class Body>
  FASTMAML_DEVICE void each_tap(int64_t row, Body&& body) const {
    if (kernel_h == 2 && kernel_w == 2) {  // by far the most common
      body(row, 0), body(row + 1, 1), body(row + in_w, 2), body(row + in_w + 1, 3);
      return;
    }
    for (int dy = 0, tap = 0; dy < kernel_h; ++dy)
      for (int dx = 0; dx < kernel_w; ++dx) body(row + dy * in_w + dx, tap++);
  }
};

template <class T>
struct TapChoice {
  T value;
  int tap;
};
// The largest value(row) of the window whose first tap is at `row`, and its tap.
template <class T, class Value>
FASTMAML_DEVICE TapChoice<T> choose_tap(const PoolWindows& windows, int64_t row, bool relu,
                                        Value&& value) {
  TapChoice<T> best{value(row), 0};
  windows.each_tap(row, [&](int64_t i, int tap) {
    const T v = value(i);
    // Written so that a NaN is taken, and kept unless another follows.
    if (v > best.value || v != v) best = {v, tap};
  });
  if (relu && best.value <= T(0)) best = {T(0), -1};
  return best;
}

// One task's operands, see TapArgs.
template <class T>
struct TapMemory {
  const PoolWindows windows;
  const int64_t features;
  const T* x;
  int8_t* tap;
  T* out;

  FASTMAML_DEVICE TapMemory(const TapArgs& args, const Block& block, int64_t task)
      : windows(args.pool),
        features(args.features),
        x(address<T>(block, args.x, task)),
        tap(reinterpret_cast<int8_t*>(address<T>(block, args.tap, task)) + args.first_tap),
        out(address<T>(block, args.out, task)) {}

  // Each for number i of the windows: window i / features, feature i % features.
  FASTMAML_DEVICE void choose(int64_t i, bool relu) const {
    const int64_t window = quotient(i, features), j = i - window * features;
    const TapChoice<T> choice = choose_tap<T>(windows, windows.first_row(window), relu,
                                              [&](int64_t row) { return x[row * features + j]; });
    out[i] = choice.value, tap[i] = static_cast<int8_t>(choice.tap);
  }
  FASTMAML_DEVICE void follow(int64_t i) const {
    const int64_t window = quotient(i, features), j = i - window * features;
    const int chosen = tap[i];
    const int64_t row = windows.row_of(windows.first_row(window), chosen < 0 ? 0 : chosen);
    out[i] = chosen < 0 ? T(0) : x[row * features + j];
  }
  FASTMAML_DEVICE void spread(int64_t i) const {
    const int64_t window = quotient(i, features), j = i - window * features;
    const int chosen = tap[i];
    const T value = x[i];
    windows.each_tap(windows.first_row(window), [&](int64_t row, int at) {
      out[row * features + j] = chosen == at ? value : T(0);
    });
  }
  FASTMAML_DEVICE void clear(int64_t i) const {
    const int64_t k = quotient(i, features);
    out[windows.outside_row(k) * features + i - k * features] = T(0);
  }
};

// Features of a block's sums: a sector of memory in single. Each has 32 threads, every 32nd window
// being a thread's.
constexpr int kTapFeatures = 8, kTapLanes = kThreads / kTapFeatures;
// What this thread has of the sum over the windows that chose any tap, for feature j.
template <class T>
FASTMAML_DEVICE T tap_sum(const TapMemory<T>& m, int64_t windows, int64_t j, int lane) {
  return sum_chains<T>(lane, kTapLanes, windows, [&](int64_t window) {
    const int64_t i = window * m.features + j;
    const T x = m.x[i];
    return m.tap[i] >= 0 ? x : T(0);
  });
}

template <class T>
FASTMAML_DEVICE void sum_taps(const TapMemory<T>& m, const TapArgs& args, const Block& block,
                              int64_t task) {
  const int64_t windows = args.images * m.windows.windows();
  const T* cin = address_or_null<T>(block, args.sums_cin, task);
  T* sums = address<T>(block, args.sums, task);
  const int at = threadIdx.x % kTapFeatures, lane = threadIdx.x / kTapFeatures;
  Carve carve(block);
  T* memory = carve.take<T>(kWarps * kTapFeatures);
  for (int64_t j0 = block.rank * kTapFeatures; j0 < m.features; j0 += block.size * kTapFeatures) {
    const int64_t j = j0 + at;
    T sum = j < m.features ? tap_sum(m, windows, j, lane) : T(0);
#pragma unroll
    for (int apart = kWarp / 2; apart >= kTapFeatures; apart /= 2)
      sum += __shfl_xor_sync(kAllLanes, sum, apart);
    if (threadIdx.x % kWarp < kTapFeatures) memory[threadIdx.x / kWarp * kTapFeatures + at] = sum;
    __syncthreads();
    if (lane == 0 && j < m.features) {
      for (int warp = 1; warp < kWarps; ++warp) sum += memory[warp * kTapFeatures + at];
      sums[j] = load_or(cin, j, T(0)) + sum;
    }
    __syncthreads();
  }
}

template <class T>
FASTMAML_DEVICE void run_pass(const TapArgs& args, const Block& block, int64_t task) {
  const TapMemory<T> m(args, block, task);
  const int64_t count = args.images * m.windows.windows() * m.features;
  const int64_t first = block.first_thread(), all = block.all_threads();
  if (args.kind == TapKind::choose) {
    for (int64_t i = first; i < count; i += all) m.choose(i, args.relu);
    return;
  }
  if (args.kind == TapKind::follow) {
    for (int64_t i = first; i < count; i += all) m.follow(i);
    return;
  }
  for (int64_t i = first; i < count; i += all) m.spread(i);
  for (int64_t i = first; i < args.images * m.windows.outside() * m.features; i += all) m.clear(i);
  sum_taps(m, args, block, task);
}

inline int64_t units(const TapArgs& args) {
  const int64_t count = args.images * args.pool.out_h * args.pool.out_w * args.features;
  return (count + kThreads - 1) / kThreads;
}

}  // namespace fastmaml::device
