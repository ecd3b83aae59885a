// The `to` pixels of a stencil in parts that a device treats alike.
#pragma once

#include <vector>

#include "ops/window/stencil.hpp"

namespace fastmaml {

// The pixels of some classes, under every tap that one of them has.
struct PixelPart {
  std::vector<const PixelClass*> classes;
  std::vector<int32_t> taps;
  int64_t pixels = 0, pairs = 0;

  void add(const PixelClass& pixel_class);
  // What the part would cost with the class, against the products that it needs.
  double waste_with(const PixelClass& pixel_class) const;

 private:
  std::vector<int32_t> taps_with(const PixelClass& pixel_class) const;
};

// All pixels and taps.
PixelPart whole(const Stencil& stencil);
// Borders join the pixels inside; the classes of a stride, whose taps differ, stay apart.
std::vector<PixelPart> split(const Stencil& stencil);

}  // namespace fastmaml
