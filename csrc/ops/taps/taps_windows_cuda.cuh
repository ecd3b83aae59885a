// The windows of a pool on the device: which rows they hold and which one they chose.
#pragma once

#include "cuda/columns.cuh"
#include "ops/taps/taps.hpp"

namespace fastmaml::device {

typedef int8_t TapByte;  // -1 for none

// The rows of images, cut into windows; those at the far edges that no window has are cut into
// cells alike, so that every row is in one cell.
struct PoolCells {
  // All in 32 bits, which count the rows of any task that a device holds.
  int32_t in_h, in_w, out_h, out_w, kernel_h, kernel_w;
  int32_t across, down;  // cells of an image

  FASTMAML_DEVICE explicit PoolCells(const PoolSize& pool)
      : in_h(static_cast<int32_t>(pool.in_h)),
        in_w(static_cast<int32_t>(pool.in_w)),
        out_h(static_cast<int32_t>(pool.out_h)),
        out_w(static_cast<int32_t>(pool.out_w)),
        kernel_h(static_cast<int32_t>(pool.kernel_h)),
        kernel_w(static_cast<int32_t>(pool.kernel_w)) {
    across = divide(in_w + kernel_w - 1, kernel_w), down = divide(in_h + kernel_h - 1, kernel_h);
  }
  FASTMAML_DEVICE static int32_t divide(int32_t a, int32_t b) {
    return static_cast<int32_t>(quotient(a, b));
  }
  FASTMAML_DEVICE int32_t first_row(int32_t image, int32_t y, int32_t x) const {
    return (image * in_h + y * kernel_h) * in_w + x * kernel_w;
  }
  // The row of window w's first tap, and of another tap.
  FASTMAML_DEVICE int32_t row_of(int32_t w) const {
    const int32_t line = divide(w, out_w), image = divide(line, out_h);
    return first_row(image, line - image * out_h, w - line * out_w);
  }
  FASTMAML_DEVICE int32_t row_of(int32_t w, int tap) const {
    const int32_t y = divide(tap, kernel_w);
    return row_of(w) + y * in_w + (tap - y * kernel_w);
  }

  struct Cell {
    int32_t row, window;    // its first row; -1 for no window
    int32_t height, width;  // within the image
  };
  FASTMAML_DEVICE Cell cell(int32_t c) const {
    const int32_t line = divide(c, across), image = divide(line, down);
    const int32_t y = line - image * down, x = c - line * across;
    const int32_t below = in_h - y * kernel_h, right = in_w - x * kernel_w;
    return {first_row(image, y, x), y < out_h && x < out_w ? (image * out_h + y) * out_w + x : -1,
            below < kernel_h ? below : kernel_h, right < kernel_w ? right : kernel_w};
  }

  template <class T>
  struct Choice {
    T value;
    TapByte tap;
  };
  // The largest value(row) of window w, and its tap; with a relu, 0 and none where that is flat.
  template <class T, class Value>
  FASTMAML_DEVICE Choice<T> choose(int32_t w, bool relu, Value&& value) const {
    int32_t row = row_of(w);
    T best = value(row);
    int chosen = 0;
    const int taps = kernel_h * kernel_w;
    int x = 0;
#pragma unroll 4
    for (int tap = 0; tap < taps; ++tap) {
      const T v = value(row + x);
      // Written so that a NaN is taken, and kept unless another follows.
      if (v > best || v != v) best = v, chosen = tap;
      if (++x == kernel_w) x = 0, row += in_w;
    }
    if (relu && best <= T(0)) best = T(0), chosen = -1;
    return {best, static_cast<TapByte>(chosen)};
  }
};

}  // namespace fastmaml::device
