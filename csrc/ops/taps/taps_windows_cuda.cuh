// The windows of a pool on the device: which rows they hold and which one they chose.
#pragma once

#include "cuda/columns.cuh"
#include "ops/taps/taps.hpp"

namespace fastmaml::device {

typedef int8_t TapByte;  // -1 for none

// The rows of images, cut into windows; those at the far edges that no window has are cut into
// cells alike, so that every row is in one cell.
struct PoolCells {
  PoolSize p;
  int64_t across, down;  // cells of an image

  FASTMAML_DEVICE explicit PoolCells(const PoolSize& pool) : p(pool) {
    across = (p.in_w + p.kernel_w - 1) / p.kernel_w;
    down = (p.in_h + p.kernel_h - 1) / p.kernel_h;
  }
  FASTMAML_DEVICE int64_t first_row(int64_t image, int64_t y, int64_t x) const {
    return (image * p.in_h + y * p.kernel_h) * p.in_w + x * p.kernel_w;
  }
  // The row of window w's first tap, and of another tap.
  FASTMAML_DEVICE int64_t row_of(int64_t w) const {
    const int64_t line = quotient(w, p.out_w), image = quotient(line, p.out_h);
    return first_row(image, line - image * p.out_h, w - line * p.out_w);
  }
  FASTMAML_DEVICE int64_t row_of(int64_t w, int tap) const {
    const int64_t y = quotient(tap, p.kernel_w);
    return row_of(w) + y * p.in_w + (tap - y * p.kernel_w);
  }

  struct Cell {
    int64_t row, window;  // its first row; -1 for no window
    int height, width;    // within the image
  };
  FASTMAML_DEVICE Cell cell(int64_t c) const {
    const int64_t line = quotient(c, across), image = quotient(line, down);
    const int64_t y = line - image * down, x = c - line * across;
    const int64_t below = p.in_h - y * p.kernel_h, right = p.in_w - x * p.kernel_w;
    return {first_row(image, y, x),
            y < p.out_h && x < p.out_w ? (image * p.out_h + y) * p.out_w + x : -1,
            static_cast<int>(below < p.kernel_h ? below : p.kernel_h),
            static_cast<int>(right < p.kernel_w ? right : p.kernel_w)};
  }

  template <class T>
  struct Choice {
    T value;
    TapByte tap;
  };
  // The largest value(row) of window w, and its tap; with a relu, 0 and none where that is flat.
  template <class T, class Value>
  FASTMAML_DEVICE Choice<T> choose(int64_t w, bool relu, Value&& value) const {
    int64_t row = row_of(w);
    T best = value(row);
    int chosen = 0;
    const int taps = static_cast<int>(p.kernel_h * p.kernel_w);
    int x = 0;
#pragma unroll 4
    for (int tap = 0; tap < taps; ++tap) {
      const T v = value(row + x);
      // Written so that a NaN is taken, and kept unless another follows.
      if (v > best || v != v) best = v, chosen = tap;
      if (++x == p.kernel_w) x = 0, row += p.in_w;
    }
    if (relu && best <= T(0)) best = T(0), chosen = -1;
    return {best, static_cast<TapByte>(chosen)};
  }
};

}  // namespace fastmaml::device
