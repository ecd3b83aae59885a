// Convolutions and pools in the form that device code reads: stencils become tables.
#include <algorithm>
#include <limits>

#include "core/error.hpp"
#include "cuda/lower.hpp"

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

// The pixels of some classes, under every tap that one of them has.
struct Part {
  std::vector<const PixelClass*> classes;
  std::vector<int32_t> taps;
  int64_t pixels = 0, pairs = 0;

  std::vector<int32_t> taps_with(const PixelClass& pixel_class) const {
    std::vector<int32_t> all = taps;
    for (const Tap& tap : pixel_class.taps) all.push_back(tap.index);
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
  }
  void add(const PixelClass& pixel_class) {
    const auto count = static_cast<int64_t>(pixel_class.pixels.size());
    taps = taps_with(pixel_class);
    classes.push_back(&pixel_class);
    pixels += count, pairs += count * static_cast<int64_t>(pixel_class.taps.size());
  }
  // What the part would cost with the class, against the products that it needs.
  double waste_with(const PixelClass& pixel_class) const {
    const auto count = static_cast<int64_t>(pixel_class.pixels.size());
    const auto all = static_cast<double>(taps_with(pixel_class).size());
    const int64_t needed = pairs + count * static_cast<int64_t>(pixel_class.taps.size());
    return all * static_cast<double>(pixels + count) /
           static_cast<double>(std::max<int64_t>(1, needed));
  }
};

// All pixels and taps.
Part whole(const Stencil& stencil) {
  Part part;
  for (const PixelClass& pixel_class : stencil.classes) part.add(pixel_class);
  part.taps.clear();
  for (int32_t tap = 0; tap < stencil.taps; ++tap) part.taps.push_back(tap);
  return part;
}

// Borders join the pixels inside; the classes of a stride, whose taps differ, stay apart.
std::vector<Part> split(const Stencil& stencil) {
  constexpr double kMostWaste = 1.7;
  std::vector<const PixelClass*> classes;
  for (const PixelClass& pixel_class : stencil.classes) classes.push_back(&pixel_class);
  const auto pairs = [](const PixelClass* c) { return c->pixels.size() * c->taps.size(); };
  std::stable_sort(classes.begin(), classes.end(),
                   [&](const PixelClass* a, const PixelClass* b) { return pairs(a) > pairs(b); });
  std::vector<Part> parts;
  for (const PixelClass* pixel_class : classes) {
    const auto waste = [&](const Part& part) { return part.waste_with(*pixel_class); };
    const auto best =
        std::min_element(parts.begin(), parts.end(),
                         [&](const Part& a, const Part& b) { return waste(a) < waste(b); });
    if (best != parts.end() && waste(*best) <= kMostWaste) {
      best->add(*pixel_class);
    } else {
      parts.emplace_back();
      parts.back().add(*pixel_class);
    }
  }
  return parts;
}

ConvPart lower_part(const Part& part, const Stencil& stencil, Tables& tables) {
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
  const bool thin =
      args.groups > 1 && std::min(args.k, args.n) == 1 && std::max(args.k, args.n) < kThinChannels;
  DeviceConvArgs to;
  if (args.weights)
    to.form = thin ? ConvForm::weights_direct : ConvForm::weights;
  else
    to.form = thin ? ConvForm::images_direct : ConvForm::images;
  to.c = args.c, to.cin = args.cin, to.cin_row = args.cin_row, to.scale = args.scale;
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
  const std::vector<Part> parts =
      to.form == ConvForm::images ? split(stencil) : std::vector<Part>{whole(stencil)};
  std::vector<ConvPart> lowered;
  for (const Part& part : parts) lowered.push_back(lower_part(part, stencil, tables));
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
