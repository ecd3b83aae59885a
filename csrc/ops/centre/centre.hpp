// centre: the network's input relative to its mean over the rows of a set.  y = x - mean_rows x
//
// For a linear layer that a batch norm of batch statistics follows: the norm takes off what all
// rows share, so that no number of the network changes, and the cotangents of the layer's output
// sum to 0 over the rows, so that none of the weight's gradient does. What changes is rounding: far
// from 0 (pixels of 0 to 255, features with a mean of many deviations) products of inputs would
// carry the mean's square. The input depends on no parameter, so this is made once for all steps.
#pragma once

#include "ops/op.hpp"

namespace fastmaml {

class Centre final : public Op {
 public:
  static constexpr const char* kName = "centre";

  void check(const Node&, const std::vector<TensorSpec>&) const override {}
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit&, const Node&) const override {}
  void forward_jvp(Emit&, const Node&) const override {}
  void backward_jvp(Emit&, const Node&) const override {}
};

}  // namespace fastmaml
