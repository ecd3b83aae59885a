#include "ops/pool2d/pool2d_device.hpp"

#include <algorithm>

#include "ops/window/stencil_device.hpp"

namespace fastmaml {
namespace {

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

int64_t PoolArgs::lower(Tables& tables) const {
  const bool scatters = step == PoolStep::scatter_max || step == PoolStep::scatter_avg;
  const Stencil& stencil = scatters ? map->scatter : map->gather;
  check_numbers(images, stencil, channels, channels);
  DevicePoolArgs to;
  to.step = step;
  to.in = in, to.tap = tap, to.cin = cin, to.out = out;
  to.images = static_cast<int32_t>(images), to.channels = static_cast<int32_t>(channels);
  to.from_pixels = static_cast<int32_t>(stencil.from_pixels);
  to.to_pixels = static_cast<int32_t>(stencil.to_pixels);
  to.by_channels = Divisor(channels), to.by_pixels = Divisor(stencil.to_pixels);
  lower_pool_taps(stencil, to, tables);
  const std::vector<double>& weights = map->weights;
  to.weights_f64 = tables.add_once(weights);
  to.weights_f32 = tables.add_once(std::vector<float>(weights.begin(), weights.end()));
  return tables.add(&to, 1);
}

}  // namespace fastmaml
