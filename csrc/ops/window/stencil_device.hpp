// A stencil as device code reads it.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "core/error.hpp"
#include "cuda/tables.hpp"
#include "ops/window/stencil.hpp"

namespace fastmaml {

// Device code counts the numbers of an image operand in 32 bits.
inline void check_numbers(int64_t images, const Stencil& stencil, int64_t from_channels,
                          int64_t to_channels) {
  const int64_t pixels =
      std::max(stencil.from_pixels * from_channels, stencil.to_pixels * to_channels);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (images > kMost / std::max<int64_t>(1, pixels) ||
      stencil.taps > kMost / std::max<int64_t>({1, stencil.to_pixels, from_channels}))
    throw ShapeError(message("an image layer on a device must have fewer than 2^31 numbers for ",
                             "each task, got ", images, " rows of ", pixels,
                             "; use fewer rows, smaller images or the CPU"));
}

// Adds int32 [to_pixels, taps]: the source pixel of each tap, -1 outside the image.
inline int64_t stencil_table(Tables& tables, const Stencil& stencil) {
  std::vector<int32_t> sources(static_cast<size_t>(stencil.to_pixels * stencil.taps), -1);
  for (const PixelClass& pixels : stencil.classes)
    for (const PixelPair& pair : pixels.pixels)
      for (const Tap& tap : pixels.taps)
        sources[static_cast<size_t>(pair.to * stencil.taps + tap.index)] = pair.from + tap.shift;
  return tables.add_once(sources);
}

}  // namespace fastmaml
