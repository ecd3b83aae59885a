// The rows that batch_norm runs over, in blocks that stay in a first-level cache from the sums to
// whatever reads them next; and what comes in for each row.
//
// Without a pool a block is some rows in a row, and each has its own cotangent. With one it is a
// strip of the image, as high as a window, and only the row that a window chose has any.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "ops/batch_norm/batch_norm.hpp"

namespace fastmaml::FASTMAML_ISA {

// A vector of taps, as bytes in memory and as whole lanes in registers.
typedef int8_t TapByte;
template <class T>
struct TapBytes {
  typedef TapByte type __attribute__((vector_size(kWidth<T>)));
};
template <class T>
FASTMAML_INLINE Bits<T> splat_tap(int64_t tap) {
  return Bits<T>{} + static_cast<decltype(Bits<T>{}[0] + 0)>(tap);
}
template <class T>
FASTMAML_INLINE Bits<T> load_taps(const TapByte* p, Lanes<T> l) {
  typename TapBytes<T>::type bytes{};
  if (l.n == kWidth<T>)
    std::memcpy(&bytes, p, sizeof bytes);
  else
    std::memcpy(&bytes, p, static_cast<size_t>(l.n));
  return __builtin_convertvector(bytes, Bits<T>);
}
template <class T>
FASTMAML_INLINE void store_taps(TapByte* p, Bits<T> taps, Lanes<T> l) {
  const auto bytes = __builtin_convertvector(taps, typename TapBytes<T>::type);
  if (l.n == kWidth<T>)
    std::memcpy(p, &bytes, sizeof bytes);
  else
    std::memcpy(p, &bytes, static_cast<size_t>(l.n));
}

struct PlainRows {
  static constexpr bool kPooled = false, kGated = false;
  int64_t rows, block, blocks;

  explicit PlainRows(const BatchNormArgs& args) : rows(args.rows) {
    constexpr int64_t kNumbers = 4096, kFewest = 16;
    block = kNumbers / args.features < kFewest ? kFewest : kNumbers / args.features;
    blocks = (rows + block - 1) / block;
  }
  FASTMAML_INLINE int64_t count(int64_t b) const {
    return b + 1 < blocks ? block : rows - b * block;
  }
  // body(row, window, tap) for the rows of block b.
  template <class Body>
  FASTMAML_INLINE void each(int64_t b, Body&& body) const {
    const int64_t begin = b * block, end = begin + count(b);
    for (int64_t i = begin; i < end; ++i) body(i, i, 0);
  }
};

// Rows that an activation follows.
struct GatedRows : PlainRows {
  static constexpr bool kGated = true;
  using PlainRows::PlainRows;
};

struct PooledRows {
  static constexpr bool kPooled = true, kGated = false;
  PoolSize p;
  int64_t strips, blocks;

  explicit PooledRows(const BatchNormArgs& args) : p(args.pool) {
    strips = (p.in_h + p.kernel_h - 1) / p.kernel_h;
    blocks = args.rows / (p.in_h * p.in_w) * strips;
  }
  // The strip's image, and its place there.
  FASTMAML_INLINE int64_t image(int64_t b) const { return b / strips; }
  FASTMAML_INLINE int64_t strip(int64_t b) const { return b - b / strips * strips; }
  FASTMAML_INLINE int64_t height(int64_t b) const {
    const int64_t left = p.in_h - strip(b) * p.kernel_h;
    return left < p.kernel_h ? left : p.kernel_h;
  }
  FASTMAML_INLINE int64_t count(int64_t b) const { return height(b) * p.in_w; }
  FASTMAML_INLINE int64_t first_row(int64_t b) const {
    return (image(b) * p.in_h + strip(b) * p.kernel_h) * p.in_w;
  }
  FASTMAML_INLINE int64_t first_window(int64_t b) const {
    return (image(b) * p.out_h + strip(b)) * p.out_w;
  }
  // Rows that no window has, at the far edges, come with window -1.
  template <class Body>
  FASTMAML_INLINE void each(int64_t b, Body&& body) const {
    const int64_t windows = strip(b) < p.out_h ? p.out_w : 0, first = first_window(b);
    int64_t i = first_row(b);
    for (int64_t dy = 0; dy < height(b); ++dy) {
      for (int64_t o = 0; o < windows; ++o)
        for (int64_t dx = 0; dx < p.kernel_w; ++dx) body(i++, first + o, dy * p.kernel_w + dx);
      for (int64_t x = windows * p.kernel_w; x < p.in_w; ++x) body(i++, -1, 0);
    }
  }
  // body(window, row of its first tap) for the windows of block b.
  template <class Body>
  FASTMAML_INLINE void each_window(int64_t b, Body&& body) const {
    if (strip(b) >= p.out_h) return;
    const int64_t first = first_window(b), row = first_row(b);
    for (int64_t o = 0; o < p.out_w; ++o) body(first + o, row + o * p.kernel_w);
  }
  // body(row, tap) for the taps of the window whose first tap is at `row`.
  template <class Body>
  FASTMAML_INLINE void each_tap(int64_t row, Body&& body) const {
    for (int64_t dy = 0; dy < p.kernel_h; ++dy)
      for (int64_t dx = 0; dx < p.kernel_w; ++dx)
        body(row + dy * p.in_w + dx, dy * p.kernel_w + dx);
  }
};

}  // namespace fastmaml::FASTMAML_ISA
