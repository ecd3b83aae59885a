// Which pixels of one image a sliding window connects: the map that convolutions and pools run on.
//
//   in(o, tap) = o * stride - pad + tap * dilation        per dimension; outside the image: no tap
//
// The `to` pixels are grouped by the set of taps they have, so that all pixels of a class are
// treated alike: nothing is padded, and a tap outside the image costs nothing. `gather` goes from
// the input to the output (forward), `scatter` from the output to the input (its transpose).
#pragma once

#include <compare>
#include <cstdint>
#include <utility>
#include <vector>

#include "ops/op.hpp"

namespace fastmaml {

// One dimension of a window.
struct Span {
  int64_t in = 1, out = 1, kernel = 1, stride = 1, pad = 0, dilation = 1;
  auto operator<=>(const Span&) const = default;
};

struct Window {
  Span y, x;
  int64_t taps() const { return y.kernel * x.kernel; }
  int64_t in_pixels() const { return y.in * x.in; }
  int64_t out_pixels() const { return y.out * x.out; }
  auto operator<=>(const Window&) const = default;
};

// The window of a node whose rows are images [C, H, W], from its attributes kernel_h, stride_h,
// pad_h (before the first pixel), dilation_h and likewise _w. Throws ShapeError.
Window window_of(const Node& node);

struct Tap {
  int32_t index;  // ky * kernel_w + kx
  int32_t shift;  // pixels from `from` to the tap's source
  // Taps from this one on whose indices and sources are neighbours: one stretch of memory where a
  // pixel's channels are all that lies between.
  int32_t count = 1;
};
struct PixelPair {
  int32_t to, from;  // `from` is the source of the class's first tap
};
struct PixelClass {
  std::vector<Tap> taps;          // each with count 1
  std::vector<Tap> stretches;     // the same in as few as can be
  std::vector<PixelPair> pixels;  // in order of `to`

  template <class Hold>
  void holds(Hold&& hold) const {
    hold(taps), hold(stretches), hold(pixels);
  }
};
struct Stencil {
  int64_t taps = 0, to_pixels = 0, from_pixels = 0;
  std::vector<PixelClass> classes;
  int64_t pairs() const;  // of a pixel and a tap that meets a pixel

  template <class Hold>
  void holds(Hold&& hold) const {
    hold(classes);
  }
};

Stencil gather(const Window& window);
Stencil scatter(const Window& window);

// Windows of any size: for each output position of a dimension the inputs [begin, end). Taps are
// counted from a window's begin; back from the output to the input, from a pixel's first window.
using Ranges = std::vector<std::pair<int64_t, int64_t>>;
Ranges adaptive_ranges(int64_t in, int64_t out);
Stencil gather(const Ranges& y, const Ranges& x, int64_t in_h, int64_t in_w);
Stencil scatter(const Ranges& y, const Ranges& x, int64_t in_h, int64_t in_w);

}  // namespace fastmaml
