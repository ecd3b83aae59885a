#include "ops/conv2d/conv2d_device.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "ops/window/parts.hpp"
#include "ops/window/stencil_device.hpp"

namespace fastmaml {
namespace {

ConvPart lower_part(const PixelPart& part, const Stencil& stencil, Tables& tables) {
  std::vector<int32_t> to, place(static_cast<size_t>(stencil.to_pixels));
  for (const PixelClass* pixel_class : part.classes)
    for (const PixelPair& pair : pixel_class->pixels) to.push_back(pair.to);
  std::sort(to.begin(), to.end());
  for (size_t i = 0; i < to.size(); ++i)
    place[static_cast<size_t>(to[i])] = static_cast<int32_t>(i);
  std::vector<int32_t> sources(part.taps.size() * to.size(), -1);
  for (const PixelClass* pixel_class : part.classes)
    for (const Tap& tap : pixel_class->taps) {
      const auto row = static_cast<size_t>(
          std::lower_bound(part.taps.begin(), part.taps.end(), tap.index) - part.taps.begin());
      for (const PixelPair& pair : pixel_class->pixels)
        sources[row * to.size() + static_cast<size_t>(place[static_cast<size_t>(pair.to)])] =
            pair.from + tap.shift;
    }
  ConvPart lowered;
  lowered.sources = tables.add_once(sources), lowered.to = tables.add_once(to);
  lowered.tap = tables.add_once(part.taps);
  lowered.taps = static_cast<int32_t>(part.taps.size());
  lowered.pixels = static_cast<int32_t>(to.size());
  lowered.by_pixels = Divisor(std::max<int64_t>(1, lowered.pixels));
  lowered.all_taps = lowered.taps == stencil.taps;
  return lowered;
}

}  // namespace

int64_t ConvArgs::lower(Tables& tables) const {
  check_numbers(images, *stencil, groups * k, groups * n);
  if (terms.size() > kMostDeviceConvTerms)
    throw InternalError(message("a convolution has ", terms.size(), " terms"));
  const bool thin = is_thin(groups, k, n);
  DeviceConvArgs to;
  if (weights)
    to.form = thin ? ConvForm::weights_direct : ConvForm::weights;
  else
    to.form = thin ? ConvForm::images_direct : ConvForm::images;
  to.c = c, to.cin = cin, to.moments = moments, to.cin_row = cin_row, to.scale = scale;
  std::copy(terms.begin(), terms.end(), to.term);
  to.terms = static_cast<int32_t>(terms.size());
  to.images = static_cast<int32_t>(images), to.groups = static_cast<int32_t>(groups);
  to.k = static_cast<int32_t>(k), to.n = static_cast<int32_t>(n);
  to.taps = static_cast<int32_t>(stencil->taps);
  to.from_pixels = static_cast<int32_t>(stencil->from_pixels);
  to.to_pixels = static_cast<int32_t>(stencil->to_pixels);
  const int64_t pixels = images * stencil->to_pixels;
  to.splits = static_cast<int32_t>(splits);
  to.run = static_cast<int32_t>((pixels + splits - 1) / splits);
  to.by_k = Divisor(k), to.by_n = Divisor(n), to.by_channels = Divisor(groups * n);
  const std::vector<PixelPart> parts =
      to.form == ConvForm::images ? split(*stencil) : std::vector<PixelPart>{whole(*stencil)};
  std::vector<ConvPart> lowered;
  for (const PixelPart& part : parts) lowered.push_back(lower_part(part, *stencil, tables));
  to.parts = static_cast<int32_t>(lowered.size()), to.part = tables.add(lowered);
  return tables.add(&to, 1);
}

}  // namespace fastmaml
