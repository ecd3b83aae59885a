#include "ops/add/add.hpp"

#include "core/error.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

// out = cin + b, number by number; a copy where cin is absent.
void add_numbers(Emit& emit, const Node& node, const Operand& out, const Operand& cin,
                 const Operand& b) {
  const int64_t n = emit.rows() * numel(node.shape);
  ContractArgs args;
  args.m = 1, args.n = n;
  args.c = out, args.c_row = n;
  args.cin = cin, args.cin_row = n;
  args.terms = {{Operand{kScalars}, 0, 0, b, n, 1, 1}};
  emit.add(std::move(args));
}

}  // namespace

void Add::check(const Node& node, const std::vector<TensorSpec>&) const {
  if (node.in_shapes.size() != 2 || node.in_shapes[0] != node.shape ||
      node.in_shapes[1] != node.shape)
    throw ShapeError(message("layer `", node.name,
                             "`: add needs two inputs of one shape (broadcasting is not fused), "
                             "got ",
                             node.in_shapes.size(), " inputs with ",
                             node.in_shapes.empty() ? 0 : numel(node.in_shapes.front()), " and ",
                             node.in_shapes.empty() ? 0 : numel(node.in_shapes.back()),
                             " numbers a row; use backend=\"reference\""));
}

void Add::forward(Emit& emit, const Node& node) const {
  add_numbers(emit, node, emit.y(node), emit.x(node, 0), emit.x(node, 1));
}

void Add::backward(Emit& emit, const Node& node) const {
  for (int i : {0, 1}) {
    if (!emit.wants_x_bar(node, i)) continue;
    const Sink sink = emit.x_bar(node, i);
    add_numbers(emit, node, sink.out, sink.cin, emit.y_bar(node));
  }
}

void Add::forward_jvp(Emit& emit, const Node& node) const {
  const Operand first = emit.x_dot(node, emit.x_moves(node, 0) ? 0 : 1);
  if (emit.x_moves(node, 0) && emit.x_moves(node, 1))
    add_numbers(emit, node, emit.y_dot(node), first, emit.x_dot(node, 1));
  else
    add_numbers(emit, node, emit.y_dot(node), Operand{}, first);
}

void Add::backward_jvp(Emit& emit, const Node& node) const {
  for (int i : {0, 1}) {
    if (!emit.wants_x_bar(node, i)) continue;
    const Sink sink = emit.x_bar_dot(node, i);
    add_numbers(emit, node, sink.out, sink.cin, emit.y_bar_dot(node));
  }
}

}  // namespace fastmaml
