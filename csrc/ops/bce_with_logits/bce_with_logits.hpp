// bce_with_logits: binary cross-entropy of sigmoid(x) against targets t in [0, 1], over all n
// numbers of one task.                                       s = sigmoid(x)
//
//   forward        L          = w sum (max(x, 0) - x t + log(1 + exp(-|x|)))    w = 1 / n, or 1
//   backward       x_bar     += seed w (s - t)
//   backward_jvp   x_bar_dot += seed w s (1 - s) x_dot
#pragma once

#include "ops/card.hpp"
#include "ops/op.hpp"
#include "ops/pass_kind.hpp"

namespace fastmaml {

struct BceWithLogitsArgs : Card {
  static constexpr const char* kName = "bce_with_logits";
  static constexpr bool kResident = true;

  PassKind pass = PassKind::forward;
  int64_t n = 0;             // numbers of one task
  double weight = 1;         // w
  int seed = Scalars::kOne;  // scalar slot
  Operand x;                 // in [n]: logits
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

class BceWithLogits final : public LossOp {
 public:
  static constexpr const char* kName = "bce_with_logits";
  using KernelArgs = BceWithLogitsArgs;

  void forward(Emit& emit, const Node& loss) const override;
  void backward(Emit& emit, const Node& loss) const override;
  void backward_jvp(Emit& emit, const Node& loss) const override;
};

}  // namespace fastmaml
