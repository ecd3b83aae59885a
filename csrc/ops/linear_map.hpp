// An op whose output is linear in its inputs together, and that has no parameters: two maps are all
// of its four passes.
//
//   forward        y          = A (x_0, x_1, ...)
//   backward       x_i_bar   += A_i^T y_bar
//   forward_jvp    y_dot      = A (x_0_dot, x_1_dot, ...)      an input that does not move is 0
//   backward_jvp   x_i_bar_dot += A_i^T y_bar_dot
#pragma once

#include <vector>

#include "ops/op.hpp"

namespace fastmaml {

struct Sink;

class LinearMap : public Op {
 public:
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit& emit, const Node& node) const final;
  void forward_jvp(Emit& emit, const Node& node) const final;
  void backward_jvp(Emit& emit, const Node& node) const final;

 protected:
  // y = A x. Inputs that are absent are 0; one is there.
  virtual void apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
                     const Operand& y) const = 0;
  // to.out = to.cin + A_i^T bar
  virtual void transposed(Emit& emit, const Node& node, int i, const Operand& bar,
                          const Sink& to) const = 0;
};

}  // namespace fastmaml
