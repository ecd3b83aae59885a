#include "ops/pool2d/pool2d.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

constexpr int kPoolTaps = 0;  // slot of the saved buffer
constexpr int kMap = 0;       // of what all passes share

// How many of a window's positions count, in one dimension: those within the padding or, without
// it, within the image.
int64_t extent(const Span& span, int64_t o, bool with_pad) {
  const int64_t begin = o * span.stride - span.pad;
  const int64_t end = std::min(begin + span.kernel, span.in + span.pad);
  return with_pad ? end - begin : std::min(end, span.in) - std::max<int64_t>(begin, 0);
}

PoolMap sliding_map(const Node& node, bool average) {
  const Window w = window_of(node);
  PoolMap map;
  map.gather = gather(w), map.scatter = scatter(w);
  if (!average) return map;
  const bool with_pad = node.attr("count_include_pad", 1) != 0;
  const double divisor = node.attr("divisor", 0);
  map.weights.reserve(static_cast<size_t>(w.out_pixels()));
  for (int64_t y = 0; y < w.y.out; ++y)
    for (int64_t x = 0; x < w.x.out; ++x) {
      const int64_t count = extent(w.y, y, with_pad) * extent(w.x, x, with_pad);
      map.weights.push_back(1 / (divisor != 0 ? divisor : static_cast<double>(count)));
    }
  return map;
}

PoolMap adaptive_map(const Node& node) {
  const Shape& in = node.in_shapes[0];
  const Ranges y = adaptive_ranges(in[1], node.shape[1]), x = adaptive_ranges(in[2], node.shape[2]);
  PoolMap map;
  map.gather = gather(y, x, in[1], in[2]), map.scatter = scatter(y, x, in[1], in[2]);
  map.weights.reserve(y.size() * x.size());
  for (const auto& [y_begin, y_end] : y)
    for (const auto& [x_begin, x_end] : x)
      map.weights.push_back(1 / static_cast<double>((y_end - y_begin) * (x_end - x_begin)));
  return map;
}

}  // namespace

void Pool2d::check(const Node& node, const std::vector<TensorSpec>&) const {
  const Window window = window_of(node);
  if (node.in_shapes[0][0] != node.shape[0])
    throw ShapeError(message("layer `", node.name, "`: a pool keeps the channels, got ",
                             node.in_shapes[0][0], " and ", node.shape[0]));
  if (kind_ == PoolKind::adaptive_avg) return;
  for (const Span& span : {window.y, window.x}) {
    if (span.pad > span.kernel / 2)
      throw ShapeError(message("layer `", node.name, "`: the padding must be at most half of the ",
                               "kernel, got ", span.pad, " and ", span.kernel));
    if ((span.out - 1) * span.stride - span.pad >= span.in)
      throw ShapeError(message("layer `", node.name, "`: an output of ", span.out,
                               " does not follow from an input of ", span.in));
  }
}

PoolArgs Pool2d::start(Emit& emit, const Node& node, PoolStep max_step, PoolStep avg_step) const {
  PoolArgs args;
  args.step = kind_ == PoolKind::max ? max_step : avg_step;
  args.map = emit.once(node, kMap, [&] {
    return kind_ == PoolKind::adaptive_avg ? adaptive_map(node)
                                           : sliding_map(node, kind_ == PoolKind::avg);
  });
  args.images = emit.rows(), args.channels = node.shape[0];
  if (kind_ == PoolKind::max)
    args.tap = emit.saved(node, kPoolTaps, emit.rows() * numel(node.shape));
  return args;
}

void Pool2d::forward(Emit& emit, const Node& node) const {
  PoolArgs args = start(emit, node, PoolStep::find_max, PoolStep::gather_avg);
  args.in = emit.x(node, 0), args.out = emit.y(node);
  emit.add(std::move(args));
}

void Pool2d::apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
                   const Operand& y) const {
  PoolArgs args = start(emit, node, PoolStep::gather_max, PoolStep::gather_avg);
  args.in = x[0], args.out = y;
  emit.add(std::move(args));
}

void Pool2d::transposed(Emit& emit, const Node& node, int, const Operand& bar,
                        const Sink& to) const {
  PoolArgs args = start(emit, node, PoolStep::scatter_max, PoolStep::scatter_avg);
  args.in = bar, args.out = to.out, args.cin = to.cin;
  emit.add(std::move(args));
}

}  // namespace fastmaml
