#include "ops/window/stencil.hpp"

#include <map>
#include <utility>

#include "core/error.hpp"

namespace fastmaml {
namespace {

// One dimension: `to` positions with the same taps, in order.
struct Line {
  std::vector<std::pair<int64_t, int64_t>> taps;  // kernel position, distance from the first source
  std::vector<std::pair<int64_t, int64_t>> positions;  // to, first source
};

// Sorts positions into lines as their taps become known.
class Lines {
 public:
  // `sources`: (kernel position, source) of each tap that meets a pixel.
  void add(int64_t to, const std::vector<std::pair<int64_t, int64_t>>& sources) {
    const int64_t first = sources.empty() ? 0 : sources.front().second;
    std::vector<std::pair<int64_t, int64_t>> taps;
    for (const auto& [k, from] : sources) taps.emplace_back(k, from - first);
    Line& line = found_[taps];
    line.taps = taps;
    line.positions.emplace_back(to, first);
  }
  std::vector<Line> take() {
    std::vector<Line> result;
    for (auto& entry : found_) result.push_back(std::move(entry.second));
    return result;
  }

 private:
  std::map<std::vector<std::pair<int64_t, int64_t>>, Line> found_;
};

std::vector<Line> lines(const Span& span, bool forward) {
  Lines lines;
  const int64_t to_count = forward ? span.out : span.in, from_count = forward ? span.in : span.out;
  for (int64_t to = 0; to < to_count; ++to) {
    std::vector<std::pair<int64_t, int64_t>> sources;
    for (int64_t k = 0; k < span.kernel; ++k) {
      int64_t from = forward ? to * span.stride - span.pad + k * span.dilation
                             : to + span.pad - k * span.dilation;
      if (!forward) {
        if (from % span.stride != 0) continue;
        from /= span.stride;
      }
      if (from >= 0 && from < from_count) sources.emplace_back(k, from);
    }
    lines.add(to, sources);
  }
  return lines.take();
}

std::vector<Line> lines(const Ranges& ranges, int64_t in, bool forward) {
  Lines lines;
  const auto out = static_cast<int64_t>(ranges.size());
  for (int64_t to = 0; to < (forward ? out : in); ++to) {
    std::vector<std::pair<int64_t, int64_t>> sources;
    if (forward) {
      const auto [begin, end] = ranges[static_cast<size_t>(to)];
      for (int64_t from = begin; from < end; ++from) sources.emplace_back(from - begin, from);
    } else {
      for (int64_t o = 0; o < out; ++o) {
        const auto [begin, end] = ranges[static_cast<size_t>(o)];
        // Which pixel of the window it is would set every pixel apart, and no average asks.
        if (begin <= to && to < end) sources.emplace_back(sources.size(), o);
      }
    }
    lines.add(to, sources);
  }
  return lines.take();
}

std::vector<Tap> stretched(const std::vector<Tap>& taps) {
  std::vector<Tap> stretches;
  for (const Tap& tap : taps) {
    Tap* last = stretches.empty() ? nullptr : &stretches.back();
    if (last && last->index + last->count == tap.index && last->shift + last->count == tap.shift)
      ++last->count;
    else
      stretches.push_back(tap);
  }
  stretches.shrink_to_fit();
  return stretches;
}

PixelClass cross(const Line& y, const Line& x, int64_t kernel_w, int64_t to_w, int64_t from_w) {
  PixelClass both;
  both.taps.reserve(y.taps.size() * x.taps.size());
  both.pixels.reserve(y.positions.size() * x.positions.size());
  for (const auto& [ky, dy] : y.taps)
    for (const auto& [kx, dx] : x.taps)
      both.taps.push_back(
          {static_cast<int32_t>(ky * kernel_w + kx), static_cast<int32_t>(dy * from_w + dx)});
  both.stretches = stretched(both.taps);
  for (const auto& [to_y, from_y] : y.positions)
    for (const auto& [to_x, from_x] : x.positions)
      both.pixels.push_back({static_cast<int32_t>(to_y * to_w + to_x),
                             static_cast<int32_t>(from_y * from_w + from_x)});
  return both;
}

struct Extent {
  int64_t h, w, kernel_w;
};

Stencil cross_all(const std::vector<Line>& ys, const std::vector<Line>& xs, const Extent& to,
                  const Extent& from) {
  Stencil result;
  result.to_pixels = to.h * to.w, result.from_pixels = from.h * from.w;
  result.classes.reserve(ys.size() * xs.size());
  for (const Line& y : ys)
    for (const Line& x : xs) result.classes.push_back(cross(y, x, to.kernel_w, to.w, from.w));
  return result;
}

Stencil stencil(const Window& window, bool forward) {
  const Extent in{window.y.in, window.x.in, window.x.kernel},
      out{window.y.out, window.x.out, window.x.kernel};
  Stencil result = cross_all(lines(window.y, forward), lines(window.x, forward), forward ? out : in,
                             forward ? in : out);
  result.taps = window.taps();
  return result;
}

Stencil stencil(const Ranges& y, const Ranges& x, int64_t in_h, int64_t in_w, bool forward) {
  const Extent in{in_h, in_w, in_w},
      out{static_cast<int64_t>(y.size()), static_cast<int64_t>(x.size()), in_w};
  Stencil result = cross_all(lines(y, in_h, forward), lines(x, in_w, forward), forward ? out : in,
                             forward ? in : out);
  result.taps = in_h * in_w;
  return result;
}

Span span_of(const Node& node, const std::string& suffix, int64_t in, int64_t out) {
  Span span;
  auto attr = [&](const char* name, double otherwise) {
    return static_cast<int64_t>(node.attr(name + suffix, otherwise));
  };
  span.in = in, span.out = out;
  span.kernel = attr("kernel_", 1), span.stride = attr("stride_", 1), span.pad = attr("pad_", 0);
  span.dilation = attr("dilation_", 1);
  if (span.kernel < 1 || span.stride < 1 || span.pad < 0 || span.dilation < 1)
    throw ShapeError(message("layer `", node.name, "`: kernel, stride and dilation must be at ",
                             "least 1 and padding at least 0, got ", span.kernel, ", ", span.stride,
                             ", ", span.dilation, " and ", span.pad));
  return span;
}

}  // namespace

int64_t Stencil::pairs() const {
  int64_t total = 0;
  for (const PixelClass& c : classes)
    total += static_cast<int64_t>(c.taps.size()) * static_cast<int64_t>(c.pixels.size());
  return total;
}

Window window_of(const Node& node) {
  if (node.in_shapes.size() != 1 || node.in_shapes[0].size() != 3 || node.shape.size() != 3)
    throw ShapeError(message("layer `", node.name,
                             "`: rows must be images [channels, height, width] before and after"));
  const Shape& in = node.in_shapes[0];
  constexpr int64_t kMostPixels = int64_t{1} << 30;
  if (in[1] * in[2] > kMostPixels || node.shape[1] * node.shape[2] > kMostPixels)
    throw ShapeError(message("layer `", node.name, "`: an image must have at most ", kMostPixels,
                             " pixels, got ", in[1], " x ", in[2]));
  return {span_of(node, "h", in[1], node.shape[1]), span_of(node, "w", in[2], node.shape[2])};
}

Stencil gather(const Window& window) { return stencil(window, true); }
Stencil scatter(const Window& window) { return stencil(window, false); }

Ranges adaptive_ranges(int64_t in, int64_t out) {
  Ranges ranges;
  for (int64_t o = 0; o < out; ++o)
    ranges.emplace_back(o * in / out, ((o + 1) * in + out - 1) / out);
  return ranges;
}

Stencil gather(const Ranges& y, const Ranges& x, int64_t in_h, int64_t in_w) {
  return stencil(y, x, in_h, in_w, true);
}
Stencil scatter(const Ranges& y, const Ranges& x, int64_t in_h, int64_t in_w) {
  return stencil(y, x, in_h, in_w, false);
}

}  // namespace fastmaml
