#include "ops/linear_map.hpp"

#include "plan/emit.hpp"

namespace fastmaml {
namespace {

int inputs_of(const Node& node) { return static_cast<int>(node.inputs.size()); }

}  // namespace

void LinearMap::forward(Emit& emit, const Node& node) const {
  std::vector<Operand> x;
  for (int i = 0; i < inputs_of(node); ++i) x.push_back(emit.x(node, i));
  apply(emit, node, x, emit.y(node));
}

void LinearMap::backward(Emit& emit, const Node& node) const {
  for (int i = 0; i < inputs_of(node); ++i)
    if (emit.wants_x_bar(node, i)) transposed(emit, node, i, emit.y_bar(node), emit.x_bar(node, i));
}

void LinearMap::forward_jvp(Emit& emit, const Node& node) const {
  std::vector<Operand> x_dot;
  for (int i = 0; i < inputs_of(node); ++i)
    x_dot.push_back(emit.x_moves(node, i) ? emit.x_dot(node, i) : Operand{});
  apply(emit, node, x_dot, emit.y_dot(node));
}

void LinearMap::backward_jvp(Emit& emit, const Node& node) const {
  for (int i = 0; i < inputs_of(node); ++i)
    if (emit.wants_x_bar(node, i))
      transposed(emit, node, i, emit.y_bar_dot(node), emit.x_bar_dot(node, i));
}

}  // namespace fastmaml
