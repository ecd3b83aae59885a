#include "ops/conv2d/conv2d.hpp"

#include "core/error.hpp"
#include "cuda/tile_shape.hpp"
#include "ops/conv2d/conv2d_device.hpp"
#include "ops/window/parts.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

struct ConvSizes {
  int64_t groups, in, out;  // channels of one group
  int64_t pixels;           // of all output images of the pass
};

ConvSizes conv_sizes(const Emit& emit, const Node& node) {
  const auto groups = static_cast<int64_t>(node.attr("groups", 1));
  return {groups, node.in_shapes[0][0] / groups, node.shape[0] / groups,
          emit.rows() * node.shape[1] * node.shape[2]};
}

// From images of I channels to images of O channels.
ConvArgs towards_out(Emit& emit, const Node& node) {
  const ConvSizes s = conv_sizes(emit, node);
  ConvArgs args;
  args.stencil = emit.gathered(window_of(node));
  args.images = emit.rows(), args.groups = s.groups;
  args.k = s.in, args.n = s.out;
  return args;
}

enum class Way { forward, towards_out, towards_in };

// Takes Winograd's method where the planner chose it.
void choose(const Emit& emit, const Node& node, ConvArgs& args, Way way = Way::towards_out) {
  const int64_t tile = node.attr(way == Way::forward ? "winograd_forward" : "winograd", 0);
  // Only a bias may move: then there is nothing to multiply.
  if (tile == 0 || args.terms.empty()) return;
  args.winograd = winograd_map(window_of(node), way == Way::towards_in, tile);
  set_winograd_blocks(args, emit.element_bytes());
}

// Adds the terms, each [images of O channels, weights transposed], to the sink of the input.
void add_towards_in(Emit& emit, const Node& node, const Sink& sink, std::vector<ConvTerm> terms) {
  const ConvSizes s = conv_sizes(emit, node);
  ConvArgs args;
  args.stencil = emit.scattered(window_of(node));
  args.images = emit.rows(), args.groups = s.groups;
  args.k = s.out, args.n = s.in;
  args.c = sink.out, args.cin = sink.cin;
  args.terms = std::move(terms);
  choose(emit, node, args, Way::towards_in);
  emit.add(std::move(args));
}

// On the CPU, what forward must write for its moments to pay: only what has left the second-level
// cache is slow to read again. (Convolution and norm together, Zen 4, one thread: 0.89 to 0.99 of
// the time from 2.7 MiB on, none saved at 1.3 MiB and below.) Threads then have groups enough, too.
constexpr int64_t kLeastMomentBytes = int64_t{2} << 20;
// And the least of a pixel's channels in one of several groups: as many as make whole vectors.
constexpr int64_t kLeastGroupBytes = 64;

// Adds the terms, each [images of I channels, images of O channels], to the sink of the weight.
void add_weight_bar(Emit& emit, const Node& node, std::vector<ConvTerm> terms) {
  const Sink sink = emit.param_bar(node, kWeight);
  ConvArgs args = towards_out(emit, node);
  args.weights = true;
  args.c = sink.out, args.cin = sink.cin, args.scale = sink.scale;
  args.terms = std::move(terms);
  choose(emit, node, args);
  add_weights(emit, std::move(args));
}

// Adds an instruction that writes `parts` sums of `numel` numbers, and the one that adds them up.
template <class A>
void add_parts(Emit& emit, A args, int64_t parts, int64_t numel) {
  ContractArgs sum;
  sum.m = 1, sum.n = sum.c_row = sum.cin_row = numel;
  sum.c = args.c, sum.cin = args.cin, sum.scale = args.scale;
  args.c = emit.scratch(parts * numel), args.cin = {}, args.scale = Scalars::kOne;
  sum.terms = {{Operand{kScalars}, 0, 0, args.c, numel, 1, parts}};
  emit.add(std::move(args));
  emit.add(std::move(sum));
}

void add_bias_bar(Emit& emit, const Node& node, const Operand& y_like) {
  if (!emit.wants_param_bar(node, kBias)) return;
  const ConvSizes s = conv_sizes(emit, node);
  const Sink sink = emit.param_bar(node, kBias);
  const int64_t channels = s.groups * s.out;
  ContractArgs args;
  args.m = 1, args.n = channels;
  args.c = sink.out, args.c_row = channels;
  args.cin = sink.cin, args.cin_row = channels;
  args.scale = sink.scale;
  args.terms = {{Operand{kScalars}, 0, 0, y_like, channels, 1, s.pixels}};
  args.runs = emit.runs(s.pixels);
  if (args.runs == 1) return emit.add(std::move(args));
  add_parts(emit, args, args.runs, channels);
}

void check_size(const Node& node, const char* side, const Span& span) {
  const int64_t reach = span.dilation * (span.kernel - 1);
  const int64_t last = (span.out - 1) * span.stride - span.pad + reach;
  // The padding after the image is that before it, or one longer ("same" with an even reach).
  if (last - (span.in - 1) > span.pad + 1)
    throw ShapeError(message("layer `", node.name, "`: an output ", side, " of ", span.out,
                             " does not follow from ", span.in, " with kernel ", span.kernel,
                             ", stride ", span.stride, ", padding ", span.pad, " and dilation ",
                             span.dilation));
}

}  // namespace

void add_weights(Emit& emit, ConvArgs args) {
  const int64_t rows = args.stencil->taps * args.k;
  // Groups are blocks enough.
  args.splits = args.groups > 1
                    ? 1
                    : emit.runs(args.images * args.stencil->to_pixels, tile_count(rows, args.n));
  if (args.splits == 1) return emit.add(std::move(args));
  const int64_t splits = args.splits, numel = rows * args.n;
  add_parts(emit, std::move(args), splits, numel);
}

MomentGroups conv_moment_groups(const Settings& settings, const Node& node, int64_t images) {
  if (node.attr("winograd_forward", 0) != 0) return {};
  const auto groups = static_cast<int64_t>(node.attr("groups", 1));
  const int64_t in = node.in_shapes[0][0] / groups, out = node.shape[0] / groups;
  MomentGroups moments{images * node.shape[1] * node.shape[2]};
  const int64_t least = settings.moment_bytes >= 0 ? settings.moment_bytes
                        : settings.device          ? 0
                                                   : kLeastMomentBytes;
  const int64_t bytes = element_bytes(settings);
  if (moments.rows * node.shape[0] * bytes < least) return {};
  if (!settings.device) {
    if (groups == 1 || out * bytes >= kLeastGroupBytes)
      moments.each = cpu_moment_rows(node.shape[0]);
  } else if (!is_thin(groups, in, out) && split(gather(window_of(node))).size() == 1) {
    moments.each = tile_rows(tile_shape(moments.rows, out));
  }
  return moments;
}

void Conv2d::check(const Node& node, const std::vector<TensorSpec>& tensors) const {
  const Window window = window_of(node);
  check_size(node, "height", window.y);
  check_size(node, "width", window.x);
  const auto groups = static_cast<int64_t>(node.attr("groups", 1));
  const int64_t in = node.in_shapes[0][0], out = node.shape[0];
  if (groups < 1 || in % groups != 0 || out % groups != 0)
    throw ShapeError(message("layer `", node.name, "`: groups must divide the channels, got ",
                             groups, " groups for ", in, " and ", out, " channels"));
  if (!node.has_param(kWeight) || tensors[node.params[kWeight]].shape !=
                                      Shape{out, in / groups, window.y.kernel, window.x.kernel})
    throw ShapeError(message("layer `", node.name, "`: the weight must be [", out, ", ",
                             in / groups, ", ", window.y.kernel, ", ", window.x.kernel, "]"));
  if (node.has_param(kBias) && tensors[node.params[kBias]].shape != Shape{out})
    throw ShapeError(message("layer `", node.name, "`: the bias must have ", out, " numbers, got ",
                             numel(tensors[node.params[kBias]].shape)));
}

void Conv2d::forward(Emit& emit, const Node& node) const {
  ConvArgs args = towards_out(emit, node);
  args.c = emit.y(node);
  if (node.has_param(kBias)) args.cin = emit.param(node, kBias), args.cin_row = true;
  args.terms = {{emit.x(node, 0), emit.param(node, kWeight)}};
  choose(emit, node, args, Way::forward);
  if (node.attr("moments", 0) != 0)
    args.moment_groups = conv_moment_groups(emit.settings(), node, emit.rows());
  if (args.moment_groups) args.moments = emit.leave_moments(node, args.moment_groups);
  emit.add(std::move(args));
}

void Conv2d::backward(Emit& emit, const Node& node) const {
  const Operand d = emit.y_bar(node);
  // The weight first: x may be read for the last time, and x_bar take its place.
  if (emit.wants_param_bar(node, kWeight)) add_weight_bar(emit, node, {{emit.x(node, 0), d}});
  add_bias_bar(emit, node, d);
  if (emit.wants_x_bar(node, 0))
    add_towards_in(emit, node, emit.x_bar(node, 0), {{d, emit.param_t(node, kWeight)}});
}

void Conv2d::forward_jvp(Emit& emit, const Node& node) const {
  ConvArgs args = towards_out(emit, node);
  args.c = emit.y_dot(node);
  if (emit.param_moves(node, kBias)) args.cin = emit.param_dot(node, kBias), args.cin_row = true;
  if (emit.x_moves(node, 0)) args.terms.push_back({emit.x_dot(node, 0), emit.param(node, kWeight)});
  if (emit.param_moves(node, kWeight))
    args.terms.push_back({emit.x(node, 0), emit.param_dot(node, kWeight)});
  choose(emit, node, args);
  emit.add(std::move(args));
}

void Conv2d::backward_jvp(Emit& emit, const Node& node) const {
  const Operand d = emit.y_bar(node), d_dot = emit.y_bar_dot(node);
  if (emit.wants_param_bar(node, kWeight)) {
    std::vector<ConvTerm> terms{{emit.x(node, 0), d_dot}};
    if (emit.x_moves(node, 0)) terms.push_back({emit.x_dot(node, 0), d});
    add_weight_bar(emit, node, std::move(terms));
  }
  add_bias_bar(emit, node, d_dot);
  if (emit.wants_x_bar(node, 0)) {
    std::vector<ConvTerm> terms{{d_dot, emit.param_t(node, kWeight)}};
    if (emit.param_moves(node, kWeight)) terms.push_back({d, emit.param_dot_t(node, kWeight)});
    add_towards_in(emit, node, emit.x_bar_dot(node, 0), std::move(terms));
  }
}

std::string ConvArgs::details() const {
  std::string text = message("  ", images, " images, ", stencil->taps, " taps, ", k, " x ", n,
                             terms.size() > 1 ? " x 2" : "");
  if (splits > 1) text += message(", in ", splits, " runs");
  if (moments) text += message(", moments of ", moment_groups.count(), " groups");
  const int64_t tile = winograd.tile;
  if (tile > 0) text += message(", Winograd F(", tile, "x", tile, ")");
  return text;
}

}  // namespace fastmaml
