// mse: mean squared error of logits x against targets t, over all n numbers of one task.
//
//   forward        L          = w sum (x - t)^2             w = 1 / n, or 1 for the sum
//   backward       x_bar     += seed 2 w (x - t)
//   backward_jvp   x_bar_dot += seed 2 w x_dot
#pragma once

#include "ops/card.hpp"
#include "ops/op.hpp"
#include "ops/pass_kind.hpp"

namespace fastmaml {

struct MseArgs : Card {
  static constexpr const char* kName = "mse";
  static constexpr bool kResident = true;

  PassKind pass = PassKind::forward;
  int64_t n = 0;             // numbers of one task
  double weight = 1;         // w
  int seed = Scalars::kOne;  // scalar slot
  Operand x;                 // in [n]: logits; not read by backward_jvp
  Operand t;                 // in [n]: targets; not read by backward_jvp
  Operand x_dot;             // in [n]: backward_jvp
  Operand cin;               // in [n]: what out starts from in the backward passes; absent means 0
  Operand out;               // out: L, or [n] (x_bar, x_bar_dot)

  template <class Visit>
  void visit(Visit&& to) {
    for (Operand* o : {&x, &t, &x_dot, &cin}) to(*o, n, false);
    to(out, goes_forward(pass) ? 1 : n, true);
  }
};

class Mse final : public LossOp {
 public:
  static constexpr const char* kName = "mse";
  using KernelArgs = MseArgs;

  void forward(Emit& emit, const Node& loss) const override;
  void backward(Emit& emit, const Node& loss) const override;
  void backward_jvp(Emit& emit, const Node& loss) const override;
};

}  // namespace fastmaml
