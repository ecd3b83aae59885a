#include "ops/batch_norm/batch_norm.hpp"

#include "core/error.hpp"
#include "ops/batch_norm/norm_params.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

constexpr size_t kRunningMean = 2, kRunningVar = 3;

// From so many bytes on, threads of a team share rows: fewer stay in their second-level caches. And
// from so many blocks on, so that each thread gets some.
constexpr int64_t kLeastSharedBytes = int64_t{1} << 20, kLeastSharedBlocks = 4;

PoolSize pool_of(const Node& node) {
  if (node.attr("kernel_h", 0) == 0) return {};
  const Shape& in = node.in_shapes[0];
  return {in[1],
          in[2],
          node.shape[1],
          node.shape[2],
          static_cast<int64_t>(node.attr("kernel_h", 1)),
          static_cast<int64_t>(node.attr("kernel_w", 1))};
}

BatchNormArgs batch_norm_args(Emit& emit, const Node& node, PassKind pass) {
  BatchNormArgs args;
  args.pass = pass;
  args.batch_stats = node.attr("batch_stats", 1) != 0;
  args.eps = node.attr("eps", 1e-5);
  args.features = node.shape.front();
  args.rows = emit.rows() * (numel(node.in_shapes[0]) / args.features);
  args.pool = pool_of(node);
  if (args.pool) args.tap = emit.saved(node, kNormTaps, tap_numel(emit.rows() * numel(node.shape)));
  args.runs = emit.runs(args.rows);
  const int64_t forced = emit.settings().moment_bytes;
  const int64_t least = forced >= 0 ? forced : kLeastSharedBytes;
  args.by_rows = !emit.settings().device && norm_blocks(args) >= kLeastSharedBlocks &&
                 args.rows * args.features * emit.element_bytes() >= least;
  args.x = emit.x(node, 0);
  if (node.has_param(kWeight)) args.weight = emit.param(node, kWeight);
  args.stats = emit.saved(node, kStats, 2 * args.features);
  args.below = node.attr("below", 1);
  if (args.below == 0) args.activation = Activation::relu;
  if (args.below != 0 && args.below != 1) args.activation = Activation::leaky_relu;
  if (node.has_param(kBias) && (pass == PassKind::forward || args.activation != Activation::none))
    args.bias = emit.param(node, kBias);
  return args;
}

// Sums what the pass needs of each run of rows, where there are some: before the pass itself is
// added, and before args has anything that it writes. Unless it `writes` rows, sums are then all
// that it reads.
void sum_runs(Emit& emit, BatchNormArgs& args, bool writes) {
  if (args.runs < 2) return;
  const bool forward = args.pass == PassKind::forward;
  Operand& left = forward ? args.moments : args.sums;
  left = emit.scratch(args.runs * 2 * args.features);
  if (forward) args.moment_groups = {args.rows, (args.rows + args.runs - 1) / args.runs};
  BatchNormArgs part = args;
  part.partial = true;
  part.weight_dot = part.bias_dot = {};
  if (forward) part.stats = part.weight = part.bias = {};
  if (forward || args.pass == PassKind::forward_jvp) part.tap = {};  // a mean is of all rows
  if (args.pass != PassKind::backward_jvp) part.n = {};
  part.m = {};
  emit.add(part);
  if (!writes) args.x = args.x_dot = args.y_bar = args.y_bar_dot = args.tap = {};
}

}  // namespace

void BatchNorm::check(const Node& node, const std::vector<TensorSpec>& tensors) const {
  if (node.in_shapes.size() != 1 || node.in_shapes[0] != node.shape ||
      (node.shape.size() != 1 && node.shape.size() != 3))
    throw ShapeError(
        message("layer `", node.name, "`: batch_norm needs one input of [rows, ",
                node.shape.empty()       ? 0
                : node.shape.size() == 3 ? node.shape[0]
                                         : node.shape.back(),
                "] or [rows, channels, height, width] like its output, got a row shape of ",
                node.in_shapes.empty() ? 0 : node.in_shapes[0].size(),
                " dimensions; flatten the input or use backend=\"reference\""));
  for (size_t i : {kWeight, kBias, kRunningMean, kRunningVar})
    if (node.has_param(i) && tensors[node.params[i]].shape != Shape{node.shape.front()})
      throw ShapeError(message("layer `", node.name, "`: `", tensors[node.params[i]].name,
                               "` must have ", node.shape[0], " numbers, got ",
                               numel(tensors[node.params[i]].shape),
                               "; build the layer for the features it is given"));
  const bool running = node.has_param(kRunningMean) && node.has_param(kRunningVar);
  if (node.attr("batch_stats", 1) == 0 && !running)
    throw ShapeError(message("layer `", node.name, "`: batch_norm with batch_stats = 0 needs ",
                             "running_mean and running_var, got neither or one; pass both"));
}

void BatchNorm::forward(Emit& emit, const Node& node) const {
  BatchNormArgs args = batch_norm_args(emit, node, PassKind::forward);
  if (args.batch_stats && args.rows < 2)
    throw ShapeError(message("layer `", node.name,
                             "`: batch_norm with batch statistics needs more ",
                             "than one row per task, got ", args.rows,
                             "; use more shots or queries, or call .eval() on the layer"));
  if (!args.batch_stats) {
    args.running_mean = emit.param(node, kRunningMean);
    args.running_var = emit.param(node, kRunningVar);
  }
  if (args.batch_stats) {
    const Moments moments = emit.moments(node, 0);
    // A reshape may have made other rows of the convolution's.
    if (moments.groups.rows == args.rows)
      args.moments = moments.at, args.moment_groups = moments.groups;
    else
      sum_runs(emit, args, true);
  }
  args.out = emit.y(node);
  emit.add(args);
}

void BatchNorm::backward(Emit& emit, const Node& node) const {
  const bool wants_x_bar = emit.wants_x_bar(node, 0);
  // The means of a cotangent are read again where the scale moves and x_bar_dot is wanted.
  if (!wants_x_bar && !wants_param_bars(emit, node) && !emit.x_learns(node, 0)) return;
  BatchNormArgs args = batch_norm_args(emit, node, PassKind::backward);
  args.y_bar = emit.y_bar(node);
  if (args.batch_stats) args.m = emit.saved(node, kCotangentMeans, 2 * args.features);
  sum_runs(emit, args, wants_x_bar);
  if (wants_x_bar) {
    const Sink sink = emit.x_bar(node, 0);
    args.out = sink.out, args.cin = sink.cin;
  }
  set_param_sinks(emit, node, args);
  emit.add(args);
}

void BatchNorm::forward_jvp(Emit& emit, const Node& node) const {
  BatchNormArgs args = batch_norm_args(emit, node, PassKind::forward_jvp);
  const bool x_moves = emit.x_moves(node, 0);
  if (x_moves) args.x_dot = emit.x_dot(node, 0);
  if (emit.param_moves(node, kWeight)) args.weight_dot = emit.param_dot(node, kWeight);
  if (emit.param_moves(node, kBias)) args.bias_dot = emit.param_dot(node, kBias);
  if (x_moves && args.batch_stats) {
    args.n = emit.saved(node, kTangentMeans, 2 * args.features);
    sum_runs(emit, args, true);
  }
  args.out = emit.y_dot(node);
  emit.add(args);
}

void BatchNorm::backward_jvp(Emit& emit, const Node& node) const {
  const bool wants_x_bar = emit.wants_x_bar(node, 0);
  if (!wants_x_bar && !wants_param_bars(emit, node)) return;
  BatchNormArgs args = batch_norm_args(emit, node, PassKind::backward_jvp);
  args.y_bar = emit.y_bar(node), args.y_bar_dot = emit.y_bar_dot(node);
  const bool x_moves = emit.x_moves(node, 0);
  if (x_moves) args.x_dot = emit.x_dot(node, 0);
  if (wants_x_bar && args.batch_stats)
    args.m = emit.saved(node, kCotangentMeans, 2 * args.features);
  if (x_moves && args.batch_stats) args.n = emit.saved(node, kTangentMeans, 2 * args.features);
  sum_runs(emit, args, wants_x_bar);
  if (wants_x_bar) {
    const Sink sink = emit.x_bar_dot(node, 0);
    args.out = sink.out, args.cin = sink.cin;
  }
  if (emit.param_moves(node, kWeight)) args.weight_dot = emit.param_dot(node, kWeight);
  set_param_sinks(emit, node, args);
  emit.add(args);
}

size_t BatchNormArgs::scratch_bytes(int64_t number) const {
  if (!by_rows) return 0;
  const int64_t blocks = 1 + norm_blocks(*this);
  return static_cast<size_t>(blocks * kNormRows * norm_line(features, number) * number);
}

InPlace BatchNormArgs::in_place() const {
  if (!pool) return {&out, {&y_bar_dot, &x_dot, &y_bar, &x}};
  if (goes_forward(pass)) return {};
  return {&out, {&x_dot, &x}};
}

std::string BatchNormArgs::details() const {
  std::string text;
  if (runs > 1) text += message("  ", runs, " runs", partial ? ", their sums" : "");
  if (by_rows) text += message("  rows shared in ", norm_blocks(*this), " blocks");
  return text;
}

}  // namespace fastmaml
