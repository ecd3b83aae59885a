// The network as the planner sees it: checked nodes over canonical values.
//
// A reshape moves no number, so its output is the same value as its input; `values` counts what is
// left. A value moves when it depends on an adapted tensor: it is another after each inner step,
// and has a tangent. It learns when it depends on an adapted or a trained one: only then does the
// meta-gradient need its cotangent.
#pragma once

#include <vector>

#include "fastmaml.hpp"
#include "ops/op.hpp"

namespace fastmaml {

struct Network {
  std::vector<TensorSpec> tensors;
  std::vector<Node> nodes;          // in order of execution, reshapes gone
  std::vector<Shape> value_shapes;  // row shape of each canonical value
  std::vector<bool> moves, learns;  // by canonical value
  int output = 0;                   // canonical value of the logits
  Node loss;
  const LossOp* loss_op = nullptr;
};

// By canonical value: positions of the nodes that read it, one for each input that it is.
using Readers = std::vector<std::vector<int>>;
Readers readers_of(const Network& network);

// Throws ShapeError or UnsupportedModelError, naming the layer.
Network build_network(const NetworkSpec& spec);

}  // namespace fastmaml
