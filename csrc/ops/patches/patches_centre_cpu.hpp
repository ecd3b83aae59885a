// What patches are taken relative to: the mean of each channel in their own image, so that what is
// squared in the plan's dtype is no larger than it must be, however far apart the images lie.
//
// With y = x - centre of its image and d = that centre less the first image's, the n places of an
// image have, relative to the first image's centre,
//
//   sum x[p] = sum y[p] + n d[p]
//   sum x[p] x[q] = sum y[p] y[q] + d[p] sum y[q] + d[q] sum y[p] + n d[p] d[q]
//
// The terms with d are added in double.
#pragma once

#include <cmath>

#include "ops/patches/patches.hpp"

namespace fastmaml::FASTMAML_ISA {

// The mean of each channel of an image, over and over until `count` numbers are written. Where a
// pixel is not finite it is 0: a window may step over that pixel.
template <class T>
void write_centre(const T* image, int64_t pixels, int64_t channels, int64_t count, T* centre) {
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0;
    for (int64_t i = 0; i < pixels; ++i) total += static_cast<double>(image[i * channels + c]);
    const T mean = static_cast<T>(total / static_cast<double>(pixels));
    for (int64_t p = c; p < count; p += channels) centre[p] = std::isfinite(mean) ? mean : T(0);
  }
}

struct Recentre {
  int64_t patch, channels;
  double places;              // n
  double origin[kMostPatch];  // the first image's centre
  double d[kMostPatch];

  // Goes on to an image, given the mean of each channel.
  template <class T>
  void next(const T* centre, bool first) {
    for (int64_t p = 0; p < patch; ++p) {
      const auto own = static_cast<double>(centre[p % channels]);
      if (first) origin[p] = own;
      d[p] = own - origin[p];
    }
  }
  // Adds the image's sums of y to the sums of x.
  void add_sums(const double* sums, double* to) const {
    for (int64_t p = 0; p < patch; ++p) to[p] += sums[p] + places * d[p];
  }
  // Adds the terms with d to the sums of x[p] x[q], q >= p.
  void add_products(int64_t p, const double* sums, double* to) const {
    const double own = sums[p] + places * d[p];
    for (int64_t q = p; q < patch; ++q) to[q] += d[p] * sums[q] + d[q] * own;
  }
};

}  // namespace fastmaml::FASTMAML_ISA
