// A stencil as device code reads it.
#pragma once

#include <vector>

#include "cuda/lower.hpp"
#include "ops/window/stencil.hpp"

namespace fastmaml {

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
