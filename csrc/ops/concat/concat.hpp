// concat: y = the channels (or features) of x0, then those of x1, ...; the first dimension of rows.
//
//   backward       x_i_bar += y_bar's part i
//   forward_jvp    y_dot's part i = x_i_dot, or 0 where x_i does not move
//   backward_jvp   x_i_bar_dot += y_bar_dot's part i
//
// Made of contractions without terms (a copy into part of y) and of permutes (out of it).
#pragma once

#include "ops/linear_map.hpp"

namespace fastmaml {

class Concat final : public LinearMap {
 public:
  static constexpr const char* kName = "concat";

  MemoryOrder order(const Node& node) const override {
    return node.shape.size() == 3 ? MemoryOrder::channels_last : MemoryOrder::torch;
  }
  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;

 protected:
  void apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
             const Operand& y) const override;
  void transposed(Emit& emit, const Node& node, int i, const Operand& bar,
                  const Sink& to) const override;
};

}  // namespace fastmaml
