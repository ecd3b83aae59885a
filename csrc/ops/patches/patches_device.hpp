// The arguments of patches as device code reads them.
#pragma once

#include "ops/patches/patches.hpp"

namespace fastmaml {

struct DevicePatchArgs {
  Operand x, out;
  int64_t images = 0, channels = 0;
  int64_t taps = 0, places = 0, pixels = 0;  // places, pixels: of one image
  int64_t sources = 0;                       // where the table of sources stands: [places, taps]
};

}  // namespace fastmaml
