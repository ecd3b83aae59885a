// The pools' arguments as device code reads them.
#pragma once

#include "cuda/divisor.hpp"
#include "ops/pool2d/pool2d.hpp"

namespace fastmaml {

// Numbers of pixels, channels and images are such that no image operand has 2^31 numbers.
struct DevicePoolArgs {
  PoolStep step = PoolStep::find_max;
  int32_t images = 0, channels = 0, from_pixels = 0, to_pixels = 0;
  int32_t places = 0;  // the most taps of any pixel
  Divisor by_channels, by_pixels;
  // In the program's tables, a pixel's taps in order. The sources are -1 where it has no more.
  int64_t sources = 0, taps = 0;             // int32 [places, to_pixels]
  int64_t weights_f32 = 0, weights_f64 = 0;  // avg: of each output pixel
  Operand in, tap, cin, out;
};

}  // namespace fastmaml
