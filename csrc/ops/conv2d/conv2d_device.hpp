// The convolution's arguments as device code reads them.
//
// The stencil becomes tables of source pixels, one for each part of the `to` pixels. The images
// form has one part where nearly every pixel has nearly every tap; a map with a stride, transposed,
// falls into parts whose pixels share their taps, so that few products are with zero.
#pragma once

#include "cuda/divisor.hpp"
#include "ops/conv2d/conv2d.hpp"

namespace fastmaml {

// Some of the `to` pixels, under some of the taps. Offsets are those of the program's tables.
struct ConvPart {
  int64_t sources = 0;  // int32 [taps, pixels]: the source pixel, -1 outside the image
  int64_t to = 0;       // int32 [pixels]: which they are
  int64_t tap = 0;      // int32 [taps]: which they are
  int32_t taps = 0, pixels = 0;
  Divisor by_pixels;
  bool all_taps = true;  // of the weight, in order
};

enum class ConvForm : int32_t { images, weights, images_direct, weights_direct };

constexpr int kMostDeviceConvTerms = 2;

// Numbers of pixels, channels and images are such that no image operand has 2^31 numbers.
struct DeviceConvArgs {
  ConvForm form = ConvForm::images;
  bool cin_row = false;
  int32_t scale = 0, terms = 0, parts = 0;
  int32_t images = 0, groups = 1, k = 0, n = 0, taps = 0, from_pixels = 0, to_pixels = 0;
  int32_t splits = 1, run = 0;      // weights: runs of `run` pixels of all images, the last shorter
  Divisor by_k, by_n, by_channels;  // the last: n of all groups
  int64_t part = 0;                 // where the ConvParts stand in the program's tables
  Operand c, cin, moments;
  ConvTerm term[kMostDeviceConvTerms];
};

// Groups so thin that tiles would be nearly empty: each output is summed by itself; for weights, by
// so many threads, and so many groups at a time.
constexpr int32_t kThinChannels = 8;
constexpr int32_t kConvLanes = 8, kConvGroups = 32;
constexpr bool is_thin(int64_t groups, int64_t k, int64_t n) {
  return groups > 1 && (k == 1 || n == 1) && k < kThinChannels && n < kThinChannels;
}

}  // namespace fastmaml
