// Convolutions and pools in the form that device code reads: stencils become tables.
#include <algorithm>
#include <limits>

#include "core/error.hpp"
#include "cuda/lower.hpp"
#include "ops/window/parts.hpp"

namespace fastmaml {
namespace {

// Device code counts the numbers of an image operand in 32 bits.
void check_numbers(int64_t images, const Stencil& stencil, int64_t from_channels,
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

// A pixel's taps one after the other, however they are counted: an input pixel of an adaptive pool
// may have the same tap of several windows.
void lower_pool_taps(const Stencil& stencil, DevicePoolArgs& to, Tables& tables) {
  size_t places = 0;
  for (const PixelClass& pixel_class : stencil.classes)
    places = std::max(places, pixel_class.taps.size());
  const auto pixels = static_cast<size_t>(stencil.to_pixels);
  std::vector<int32_t> sources(places * pixels, -1), taps(places * pixels, -1);
  for (const PixelClass& pixel_class : stencil.classes)
    for (size_t place = 0; place < pixel_class.taps.size(); ++place) {
      const Tap& tap = pixel_class.taps[place];
      for (const PixelPair& pair : pixel_class.pixels) {
        const size_t at = place * pixels + static_cast<size_t>(pair.to);
        sources[at] = pair.from + tap.shift, taps[at] = tap.index;
      }
    }
  to.places = static_cast<int32_t>(places);
  to.sources = tables.add_once(sources), to.taps = tables.add_once(taps);
}

}  // namespace

DeviceConvArgs lower(const ConvArgs& args, Tables& tables) {
  const Stencil& stencil = *args.stencil;
  check_numbers(args.images, stencil, args.groups * args.k, args.groups * args.n);
  if (args.terms.size() > kMostDeviceConvTerms)
    throw InternalError(message("a convolution has ", args.terms.size(), " terms"));
  const bool thin = is_thin(args.groups, args.k, args.n);
  DeviceConvArgs to;
  if (args.weights)
    to.form = thin ? ConvForm::weights_direct : ConvForm::weights;
  else
    to.form = thin ? ConvForm::images_direct : ConvForm::images;
  to.c = args.c, to.cin = args.cin, to.moments = args.moments, to.cin_row = args.cin_row,
  to.scale = args.scale;
  std::copy(args.terms.begin(), args.terms.end(), to.term);
  to.terms = static_cast<int32_t>(args.terms.size());
  to.images = static_cast<int32_t>(args.images), to.groups = static_cast<int32_t>(args.groups);
  to.k = static_cast<int32_t>(args.k), to.n = static_cast<int32_t>(args.n);
  to.taps = static_cast<int32_t>(stencil.taps);
  to.from_pixels = static_cast<int32_t>(stencil.from_pixels);
  to.to_pixels = static_cast<int32_t>(stencil.to_pixels);
  const int64_t pixels = args.images * stencil.to_pixels;
  to.splits = static_cast<int32_t>(args.splits);
  to.run = static_cast<int32_t>((pixels + args.splits - 1) / args.splits);
  to.by_k = Divisor(args.k), to.by_n = Divisor(args.n),
  to.by_channels = Divisor(args.groups * args.n);
  const std::vector<PixelPart> parts =
      to.form == ConvForm::images ? split(stencil) : std::vector<PixelPart>{whole(stencil)};
  std::vector<ConvPart> lowered;
  for (const PixelPart& part : parts) lowered.push_back(lower_part(part, stencil, tables));
  to.parts = static_cast<int32_t>(lowered.size()), to.part = tables.add(lowered);
  return to;
}

DevicePoolArgs lower(const PoolArgs& args, Tables& tables) {
  const bool scatters = args.step == PoolStep::scatter_max || args.step == PoolStep::scatter_avg;
  const Stencil& stencil = scatters ? args.map->scatter : args.map->gather;
  check_numbers(args.images, stencil, args.channels, args.channels);
  DevicePoolArgs to;
  to.step = args.step;
  to.in = args.in, to.tap = args.tap, to.cin = args.cin, to.out = args.out;
  to.images = static_cast<int32_t>(args.images), to.channels = static_cast<int32_t>(args.channels);
  to.from_pixels = static_cast<int32_t>(stencil.from_pixels);
  to.to_pixels = static_cast<int32_t>(stencil.to_pixels);
  to.by_channels = Divisor(args.channels), to.by_pixels = Divisor(stencil.to_pixels);
  lower_pool_taps(stencil, to, tables);
  const std::vector<double>& weights = args.map->weights;
  to.weights_f64 = tables.add_once(weights);
  to.weights_f32 = tables.add_once(std::vector<float>(weights.begin(), weights.end()));
  return to;
}

}  // namespace fastmaml
