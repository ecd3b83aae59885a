#include "ops/window/parts.hpp"

#include <algorithm>

namespace fastmaml {

std::vector<int32_t> PixelPart::taps_with(const PixelClass& pixel_class) const {
  std::vector<int32_t> all = taps;
  for (const Tap& tap : pixel_class.taps) all.push_back(tap.index);
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

void PixelPart::add(const PixelClass& pixel_class) {
  const auto count = static_cast<int64_t>(pixel_class.pixels.size());
  taps = taps_with(pixel_class);
  classes.push_back(&pixel_class);
  pixels += count, pairs += count * static_cast<int64_t>(pixel_class.taps.size());
}

double PixelPart::waste_with(const PixelClass& pixel_class) const {
  const auto count = static_cast<int64_t>(pixel_class.pixels.size());
  const auto all = static_cast<double>(taps_with(pixel_class).size());
  const int64_t needed = pairs + count * static_cast<int64_t>(pixel_class.taps.size());
  return all * static_cast<double>(pixels + count) /
         static_cast<double>(std::max<int64_t>(1, needed));
}

PixelPart whole(const Stencil& stencil) {
  PixelPart part;
  for (const PixelClass& pixel_class : stencil.classes) part.add(pixel_class);
  part.taps.clear();
  for (int32_t tap = 0; tap < stencil.taps; ++tap) part.taps.push_back(tap);
  return part;
}

std::vector<PixelPart> split(const Stencil& stencil) {
  constexpr double kMostWaste = 1.7;
  std::vector<const PixelClass*> classes;
  for (const PixelClass& pixel_class : stencil.classes) classes.push_back(&pixel_class);
  const auto pairs = [](const PixelClass* c) { return c->pixels.size() * c->taps.size(); };
  std::stable_sort(classes.begin(), classes.end(),
                   [&](const PixelClass* a, const PixelClass* b) { return pairs(a) > pairs(b); });
  std::vector<PixelPart> parts;
  for (const PixelClass* pixel_class : classes) {
    const auto waste = [&](const PixelPart& part) { return part.waste_with(*pixel_class); };
    const auto best = std::min_element(
        parts.begin(), parts.end(),
        [&](const PixelPart& a, const PixelPart& b) { return waste(a) < waste(b); });
    if (best != parts.end() && waste(*best) <= kMostWaste) {
      best->add(*pixel_class);
    } else {
      parts.emplace_back();
      parts.back().add(*pixel_class);
    }
  }
  return parts;
}

}  // namespace fastmaml
