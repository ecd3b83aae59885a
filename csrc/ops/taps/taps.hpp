// taps: max-pools whose windows touch and do not overlap, with a relu behind them or none.
//
//   choose   out[w, f] = max over the window's rows of x[r, f], and the tap that gave it; with a
//            relu, 0 and no tap where that is not positive
//   follow   out[w, f] = x[r, f] of the chosen row, 0 where there is none         (a tangent)
//   spread   out[r, f] = x[w, f] where r was chosen in w, else 0                  (a cotangent)
//            sums[f]   = sums_cin[f] + sum over the windows that chose any, of x[w, f]
//
// Rows are the pixels of whole images, windows the pixels of what the pool gives. Taps are bytes,
// -1 for none. Ties go to the first tap and a NaN is taken, as in torch.
#pragma once

#include "ops/card.hpp"
#include "ops/op.hpp"

namespace fastmaml {

struct PoolSize {
  int64_t in_h = 0, in_w = 0, out_h = 0, out_w = 0, kernel_h = 0, kernel_w = 0;
  constexpr explicit operator bool() const { return kernel_h > 0; }
  // Of an image: each as high as a window, the last one perhaps lower.
  constexpr int64_t strips() const { return (in_h + kernel_h - 1) / kernel_h; }
};

// Numbers of a buffer that holds so many taps: bytes, in numbers of the smaller dtype.
inline int64_t tap_numel(int64_t taps) { return (taps + 3) / 4; }

enum class TapKind : int32_t { choose, follow, spread };

struct TapArgs : Card {
  static constexpr const char* kName = "taps";

  TapKind kind = TapKind::choose;
  bool relu = false;  // choose
  PoolSize pool;
  int64_t images = 0, features = 0;
  Operand x;
  Operand tap;            // out of choose, in of the others
  int64_t first_tap = 0;  // where these images' taps begin in it
  Operand out;
  Operand sums_cin, sums;  // spread: [features]; sums_cin absent means 0

  template <class Visit>
  void visit(Visit&& to) {
    const int64_t rows = images * pool.in_h * pool.in_w * features;
    const int64_t windows = images * pool.out_h * pool.out_w * features;
    const bool spreads = kind == TapKind::spread;
    to(x, spreads ? windows : rows, false), to(sums_cin, features, false);
    to(tap, tap_bytes(windows), kind == TapKind::choose);
    to(out, spreads ? rows : windows, true), to(sums, features, true);
  }
};

}  // namespace fastmaml
