// pointwise: y = f(x), number by number.      x, y [n] of one task, any shape
//
//   forward        y          = f(x)
//   backward       x_bar     += f'(x) y_bar
//   forward_jvp    y_dot      = f'(x) x_dot
//   backward_jvp   x_bar_dot += f'(x) y_bar_dot + f''(x) x_dot y_bar
//
// Each function gives value, slope f' and curve f'' (pointwise_cpu.hpp); the passes are derived.
// Slope and curve read one of x and y, called `z`: y where that is the cheaper form (relu, tanh,
// sigmoid), so that x need not be kept. At the kinks they are what torch takes them to be:
//
//   relu'(0) = 0,  leaky_relu'(0) = negative_slope,  elu'(0) = alpha but elu''(0) = 0,
//   softplus is linear where beta x > threshold, and its curve is 0 at the threshold itself.
#pragma once

#include <utility>

#include "ops/card.hpp"
#include "ops/op.hpp"
#include "ops/pass_kind.hpp"

namespace fastmaml {

enum class PointwiseKind : int32_t {
  relu,        // max(x, 0)
  leaky_relu,  // x > 0 ? x : a x                           a = negative_slope
  elu,         // x > 0 ? x : a (exp(x) - 1)                a = alpha
  gelu,        // x Phi(x), Phi the normal distribution
  gelu_tanh,   // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
  silu,        // x sigmoid(x)
  softplus,    // log(1 + exp(a x)) / a                     a = beta, b = threshold
  tanh,
  sigmoid,
};

struct PointwiseArgs : Card {
  static constexpr const char* kName = "pointwise";
  static constexpr bool kResident = true;

  PassKind pass = PassKind::forward;
  PointwiseKind kind = PointwiseKind::relu;
  double a = 0, b = 0;  // constants of the function
  int64_t n = 0;        // numbers of one task; every operand below has [n]
  Operand z;            // in: x in the forward pass, then x or y as the kind reads
  Operand y_bar;        // in: backward; backward_jvp where the curve is not zero
  Operand x_dot;        // in: forward_jvp; backward_jvp where the curve is not zero
  Operand y_bar_dot;    // in: backward_jvp
  Operand cin;          // in: what out starts from; absent means 0
  Operand out;          // out: y, x_bar, y_dot or x_bar_dot

  InPlace in_place() const { return {&out, {&y_bar_dot, &y_bar, &x_dot, &z}}; }

  template <class Visit>
  void visit(Visit&& to) {
    for (Operand* o : {&z, &y_bar, &x_dot, &y_bar_dot, &cin}) to(*o, n, false);
    to(out, n, true);
  }
};

class Pointwise final : public Op {
 public:
  static constexpr std::pair<const char*, PointwiseKind> kNames[] = {
      {"elu", PointwiseKind::elu},
      {"gelu", PointwiseKind::gelu},
      {"leaky_relu", PointwiseKind::leaky_relu},
      {"relu", PointwiseKind::relu},
      {"sigmoid", PointwiseKind::sigmoid},
      {"silu", PointwiseKind::silu},
      {"softplus", PointwiseKind::softplus},
      {"tanh", PointwiseKind::tanh},
  };
  using KernelArgs = PointwiseArgs;

  explicit Pointwise(PointwiseKind kind) : kind_(kind) {}
  MemoryOrder order(const Node&) const override { return MemoryOrder::any; }
  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit& emit, const Node& node) const override;
  void forward_jvp(Emit& emit, const Node& node) const override;
  void backward_jvp(Emit& emit, const Node& node) const override;

 private:
  PointwiseArgs start(Emit& emit, const Node& node, PassKind pass) const;

  PointwiseKind kind_;
};

}  // namespace fastmaml
