// The network as the planner sees it: checked nodes over canonical values.
//
// A reshape moves no number, so its output is the same value as its input; `values` counts what is
// left. A value is active when it depends on a trainable tensor: only active values have
// cotangents and tangents.
#pragma once

#include <vector>

#include "fastmaml.hpp"
#include "ops/op.hpp"

namespace fastmaml {

struct Network {
  std::vector<TensorSpec> tensors;
  std::vector<int> trainable;  // tensor index -> position among the trainable ones, or -1
  int trainable_count = 0;
  std::vector<Node> nodes;          // in order of execution, reshapes gone
  std::vector<Shape> value_shapes;  // row shape of each canonical value
  std::vector<bool> active;
  int output = 0;  // canonical value of the logits
  Node loss;
  const LossOp* loss_op = nullptr;
};

// By canonical value: positions of the nodes that read it, one for each input that it is.
using Readers = std::vector<std::vector<int>>;
Readers readers_of(const Network& network);

// Throws ShapeError or UnsupportedModelError, naming the layer.
Network build_network(const NetworkSpec& spec);

}  // namespace fastmaml
