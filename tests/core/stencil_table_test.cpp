// The table of csrc/ops/window/stencil_device.hpp against the window that it stands for.
#include <cstring>

#include "check.hpp"
#include "core/error.hpp"
#include "ops/window/stencil_device.hpp"

namespace fastmaml::test {
namespace {

// The source along one dimension, -1 outside.
int64_t source(const Span& span, int64_t to, int64_t k) {
  const int64_t from = to * span.stride - span.pad + k * span.dilation;
  return from >= 0 && from < span.in ? from : -1;
}

bool right(const Window& window, const Tables& tables, int64_t at) {
  for (int64_t i = 0; i < window.out_pixels() * window.taps(); ++i) {
    const int64_t to = i / window.taps(), tap = i % window.taps();
    const int64_t y = source(window.y, to / window.x.out, tap / window.x.kernel);
    const int64_t x = source(window.x, to % window.x.out, tap % window.x.kernel);
    int32_t found;
    std::memcpy(&found, tables.bytes().data() + at + i * 4, 4);
    if (found != (y < 0 || x < 0 ? -1 : y * window.x.in + x)) return false;
  }
  return true;
}

TEST(a_stencil_table_has_every_tap_of_every_pixel) {
  const Span same{9, 9, 3, 1, 1, 1}, strided{7, 4, 3, 2, 1, 1}, dilated{9, 5, 3, 1, 0, 2},
      outside{2, 6, 3, 1, 3, 1}, single{5, 5, 1, 1, 0, 1};
  Tables tables;
  for (const Span& y : {same, strided, dilated, outside, single})
    for (const Span& x : {same, strided, dilated, outside, single}) {
      const Window window{y, x};
      const int64_t at = stencil_table(tables, gather(window));
      CHECK(right(window, tables, at));
    }
}

}  // namespace
}  // namespace fastmaml::test
