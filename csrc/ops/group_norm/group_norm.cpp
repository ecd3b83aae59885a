#include "ops/group_norm/group_norm.hpp"

#include "core/error.hpp"
#include "ops/batch_norm/norm_params.hpp"
#include "plan/emit.hpp"

namespace fastmaml {

int64_t GroupNorm::channels(const Node& node) const {
  if (over_ == NormOver::groups) return node.shape.front();
  int64_t count = 1;
  const auto dims = static_cast<size_t>(node.attr("dims", 1));
  for (size_t i = 0; i < dims; ++i) count *= node.shape[node.shape.size() - 1 - i];
  return count;
}

GroupNormArgs GroupNorm::start(Emit& emit, const Node& node, PassKind pass) const {
  GroupNormArgs args;
  args.pass = pass;
  args.eps = node.attr("eps", 1e-5);
  args.channels = channels(node);
  const int64_t others = numel(node.shape) / args.channels;
  if (over_ == NormOver::groups) {
    args.groups = static_cast<int64_t>(node.attr("groups", 1));
    args.rows = emit.rows(), args.pixels = others;
  } else {
    args.rows = emit.rows() * others;
  }
  args.x = emit.x(node, 0);
  if (node.has_param(kWeight)) args.weight = emit.param(node, kWeight);
  args.stats = emit.saved(node, kStats, 2 * args.rows * args.groups);
  return args;
}

void GroupNorm::check(const Node& node, const std::vector<TensorSpec>& tensors) const {
  const size_t rank = node.shape.size();
  if (node.in_shapes.size() != 1 || node.in_shapes[0] != node.shape)
    throw ShapeError(message("layer `", node.name, "`: ", node.op_name,
                             " needs one input of its output's shape, got ", node.in_shapes.size(),
                             " inputs; describe the network again"));
  const auto dims = static_cast<int64_t>(node.attr("dims", 1));
  const bool fits = over_ == NormOver::groups ? rank == 1 || rank == 3
                                              : dims >= 1 && dims <= static_cast<int64_t>(rank);
  if (!fits)
    throw ShapeError(message("layer `", node.name, "`: ", node.op_name, " cannot take rows of ",
                             rank, " dimensions; use backend=\"reference\""));
  const int64_t count = channels(node);
  const auto groups = static_cast<int64_t>(node.attr("groups", 1));
  if (groups < 1 || count % groups != 0)
    throw ShapeError(message("layer `", node.name, "`: groups must divide the channels, got ",
                             groups, " groups for ", count, " channels"));
  for (size_t i : {kWeight, kBias})
    if (node.has_param(i) && numel(tensors[node.params[i]].shape) != count)
      throw ShapeError(message("layer `", node.name, "`: `", tensors[node.params[i]].name,
                               "` must have ", count, " numbers, got ",
                               numel(tensors[node.params[i]].shape),
                               "; build the layer for the features it is given"));
}

void GroupNorm::forward(Emit& emit, const Node& node) const {
  GroupNormArgs args = start(emit, node, PassKind::forward);
  if (node.has_param(kBias)) args.bias = emit.param(node, kBias);
  args.out = emit.y(node);
  emit.add(args);
}

void GroupNorm::backward(Emit& emit, const Node& node) const {
  const bool wants_x_bar = emit.wants_x_bar(node, 0);
  if (!wants_x_bar && !wants_param_bars(emit, node)) return;
  GroupNormArgs args = start(emit, node, PassKind::backward);
  args.y_bar = emit.y_bar(node);
  if (wants_x_bar) {
    const Sink sink = emit.x_bar(node, 0);
    args.m = emit.saved(node, kCotangentMeans, 2 * args.rows * args.groups);
    args.out = sink.out, args.cin = sink.cin;
  }
  set_param_sinks(emit, node, args);
  emit.add(args);
}

void GroupNorm::forward_jvp(Emit& emit, const Node& node) const {
  GroupNormArgs args = start(emit, node, PassKind::forward_jvp);
  if (emit.x_moves(node, 0)) {
    args.x_dot = emit.x_dot(node, 0);
    args.n = emit.saved(node, kTangentMeans, 2 * args.rows * args.groups);
  }
  if (emit.param_moves(node, kWeight)) args.weight_dot = emit.param_dot(node, kWeight);
  if (emit.param_moves(node, kBias)) args.bias_dot = emit.param_dot(node, kBias);
  args.out = emit.y_dot(node);
  emit.add(args);
}

void GroupNorm::backward_jvp(Emit& emit, const Node& node) const {
  const bool wants_x_bar = emit.wants_x_bar(node, 0);
  if (!wants_x_bar && !wants_param_bars(emit, node)) return;
  GroupNormArgs args = start(emit, node, PassKind::backward_jvp);
  args.y_bar = emit.y_bar(node), args.y_bar_dot = emit.y_bar_dot(node);
  if (emit.x_moves(node, 0)) {
    args.x_dot = emit.x_dot(node, 0);
    args.m = emit.saved(node, kCotangentMeans, 2 * args.rows * args.groups);
    args.n = emit.saved(node, kTangentMeans, 2 * args.rows * args.groups);
  }
  if (wants_x_bar) {
    const Sink sink = emit.x_bar_dot(node, 0);
    args.out = sink.out, args.cin = sink.cin;
  }
  if (emit.param_moves(node, kWeight)) args.weight_dot = emit.param_dot(node, kWeight);
  set_param_sinks(emit, node, args);
  emit.add(args);
}

}  // namespace fastmaml
