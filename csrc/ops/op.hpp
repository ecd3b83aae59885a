// What an op is: a shape rule and four passes, each of which writes instructions for one task.
//
//   forward        y         = f(x, p)
//   backward       x_bar    += J_x^T y_bar,   p_bar += J_p^T y_bar
//   forward_jvp    y_dot     = J (x_dot, p_dot)
//   backward_jvp   x_bar_dot += tangent of backward, p_bar_dot likewise
//
// The last two along u = -alpha v are the Hessian-vector product. `Emit` is what a pass sees of the
// program: its own node, the rows of the current pass, and the operands of values and parameters.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "fastmaml.hpp"
#include "ops/operand.hpp"

namespace fastmaml {

class Op;

// Where the parameters that most ops have stand among a node's.
constexpr size_t kWeight = 0, kBias = 1;

// How the rows of a value lie in memory: as in torch, or, for images [C, H, W], channels last.
enum class MemoryOrder { torch, channels_last, any };

struct Node {
  const Op* op = nullptr;
  std::string op_name, name;
  std::vector<int> inputs;       // canonical value ids (reshapes resolved)
  std::vector<Shape> in_shapes;  // row shapes as this layer sees them
  Shape shape;
  int output = 0;           // canonical value id
  std::vector<int> params;  // tensor indices, -1 absent
  std::map<std::string, double> attrs;

  double attr(const std::string& key, double otherwise) const {
    auto found = attrs.find(key);
    return found == attrs.end() ? otherwise : found->second;
  }
  bool has_param(size_t i) const { return i < params.size() && params[i] >= 0; }
};

inline int64_t numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

// A convolution's weight [groups O, I, taps] of torch's lies as [groups, taps, I, O], so that one
// tap is a product of rows of channels. Empty for other tensors.
struct Packing {
  int64_t groups = 0, taps = 0, in = 0, out = 0;
  explicit operator bool() const { return groups > 0; }
};

class Emit;

class Op {
 public:
  virtual ~Op() = default;
  // The order of its inputs and its output; `any`: whichever the inputs have, and all the same.
  virtual MemoryOrder order(const Node&) const { return MemoryOrder::torch; }
  // How it wants its weight, of the shape, to lie.
  virtual Packing packing(const Node&, const Shape&) const { return {}; }
  // Throws ShapeError when inputs, parameters and `node.shape` do not fit together.
  virtual void check(const Node& node, const std::vector<TensorSpec>& tensors) const = 0;
  virtual void forward(Emit& emit, const Node& node) const = 0;
  virtual void backward(Emit& emit, const Node& node) const = 0;
  virtual void forward_jvp(Emit& emit, const Node& node) const = 0;
  virtual void backward_jvp(Emit& emit, const Node& node) const = 0;
};

// A loss ends the network: its input is the logits, its three passes make the scalar, its
// cotangent (times `seed`) and the cotangent's tangent.
class LossOp {
 public:
  virtual ~LossOp() = default;
  // Whether a row's target is the index of a class, an int64, and not numbers like the logits.
  virtual bool reads_classes() const { return false; }
  virtual void forward(Emit& emit, const Node& loss) const = 0;       // -> emit.loss()
  virtual void backward(Emit& emit, const Node& loss) const = 0;      // -> emit.x_bar(loss, 0)
  virtual void backward_jvp(Emit& emit, const Node& loss) const = 0;  // -> emit.x_bar_dot(loss, 0)
};

}  // namespace fastmaml
