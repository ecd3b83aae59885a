#include "ops/pointwise/pointwise.hpp"

#include "core/error.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

// Whether slope and curve are functions of y; pointwise_cpu.hpp computes them from it.
bool reads_y(PointwiseKind kind) {
  return kind == PointwiseKind::relu || kind == PointwiseKind::tanh ||
         kind == PointwiseKind::sigmoid;
}

bool has_curve(PointwiseKind kind) {
  return kind != PointwiseKind::relu && kind != PointwiseKind::leaky_relu;
}

}  // namespace

void Pointwise::check(const Node& node, const std::vector<TensorSpec>&) const {
  if (node.in_shapes.size() != 1 || node.in_shapes[0] != node.shape)
    throw ShapeError(message("layer `", node.name, "`: ", node.op_name,
                             " needs one input of its output's shape, which has ",
                             numel(node.shape), " numbers a row, got ", node.in_shapes.size(),
                             " inputs; describe the network again"));
}

PointwiseArgs Pointwise::start(Emit& emit, const Node& node, PassKind pass) const {
  PointwiseArgs args;
  args.pass = pass;
  args.kind = kind_;
  switch (kind_) {
    case PointwiseKind::leaky_relu:
      args.a = node.attr("negative_slope", 0.01);
      break;
    case PointwiseKind::elu:
      args.a = node.attr("alpha", 1.0);
      break;
    case PointwiseKind::softplus:
      args.a = node.attr("beta", 1.0), args.b = node.attr("threshold", 20.0);
      break;
    case PointwiseKind::gelu:
      if (node.attr("tanh", 0) != 0) args.kind = PointwiseKind::gelu_tanh;
      break;
    default:
      break;
  }
  args.n = emit.rows() * numel(node.shape);
  args.z = pass != PassKind::forward && reads_y(kind_) ? emit.y(node) : emit.x(node, 0);
  return args;
}

void Pointwise::forward(Emit& emit, const Node& node) const {
  PointwiseArgs args = start(emit, node, PassKind::forward);
  args.out = emit.y(node);
  emit.add(args);
}

void Pointwise::backward(Emit& emit, const Node& node) const {
  if (!emit.wants_x_bar(node, 0)) return;
  PointwiseArgs args = start(emit, node, PassKind::backward);
  const Sink sink = emit.x_bar(node, 0);
  args.y_bar = emit.y_bar(node);
  args.out = sink.out, args.cin = sink.cin;
  emit.add(args);
}

void Pointwise::forward_jvp(Emit& emit, const Node& node) const {
  if (!emit.x_moves(node, 0)) return;
  PointwiseArgs args = start(emit, node, PassKind::forward_jvp);
  args.x_dot = emit.x_dot(node, 0);
  args.out = emit.y_dot(node);
  emit.add(args);
}

void Pointwise::backward_jvp(Emit& emit, const Node& node) const {
  if (!emit.wants_x_bar(node, 0)) return;
  PointwiseArgs args = start(emit, node, PassKind::backward_jvp);
  const Sink sink = emit.x_bar_dot(node, 0);
  args.y_bar_dot = emit.y_bar_dot(node);
  if (has_curve(kind_)) args.x_dot = emit.x_dot(node, 0), args.y_bar = emit.y_bar(node);
  args.out = sink.out, args.cin = sink.cin;
  emit.add(args);
}

}  // namespace fastmaml
