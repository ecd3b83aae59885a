// add: y = x0 + x1, of one shape; the two may be the same value.
//
//   backward       x0_bar += y_bar,   x1_bar += y_bar
//   forward_jvp    y_dot = x0_dot + x1_dot
//   backward_jvp   x0_bar_dot += y_bar_dot,   x1_bar_dot += y_bar_dot
//
// All four are contractions of depth 1 with the number one: c = cin + 1 * b. An input that depends
// on no adapted tensor has no tangent, and one that learns nothing no cotangent: they are left out.
#pragma once

#include "ops/linear_map.hpp"

namespace fastmaml {

class Add final : public LinearMap {
 public:
  static constexpr const char* kName = "add";

  MemoryOrder order(const Node&) const override { return MemoryOrder::any; }
  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;

 protected:
  void apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
             const Operand& y) const override;
  void transposed(Emit& emit, const Node& node, int i, const Operand& bar,
                  const Sink& to) const override;
};

}  // namespace fastmaml
