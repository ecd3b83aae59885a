// linear: y = x W^T + b on the last dimension.      x [R, I], W [O, I], b [O], y [R, O]
//
//   backward       x_bar = y_bar W,   W_bar = y_bar^T x,   b_bar = sum_rows y_bar
//   forward_jvp    y_dot = x_dot W^T + x U^T + u_b
//   backward_jvp   x_bar_dot = y_bar_dot W + y_bar U
//                  W_bar_dot = y_bar_dot^T x + y_bar^T x_dot,   b_bar_dot = sum_rows y_bar_dot
//
// All four are sums of one contraction. A *factored* weight never exists for a task: W[k] is W0
// plus outer products (D[j], X[j]) of the earlier steps, U is a sum of outer products (A, B) of the
// sweep, and their products with a row cost rank * (I + O) instead of I * O:
//
//   x W[k]^T = x W0^T - sum_j alpha[j] (x X[j]^T) D[j]
//   d W[k]   = d W0   - sum_j alpha[j] (d D[j]^T) X[j]
//   x U^T    = -alpha sum (x B^T) A
//   d U      = -alpha sum (d A^T) B
#pragma once

#include "ops/op.hpp"

namespace fastmaml {

class Linear final : public Op {
 public:
  static constexpr const char* kName = "linear";

  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit& emit, const Node& node) const override;
  void forward_jvp(Emit& emit, const Node& node) const override;
  void backward_jvp(Emit& emit, const Node& node) const override;
};

}  // namespace fastmaml
