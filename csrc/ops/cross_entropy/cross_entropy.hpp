// cross_entropy: logits x [rows, C], and of no other rank, against class indices c [rows], with
// label smoothing e.
//
//   target distribution   t = (1 - e) onehot(c) + e / C
//   softmax               p = exp(x - max x) / sum exp(x - max x)
//
//   forward        L          = w sum_rows (log sum exp(x) - <t, x>)     w = 1 / rows, or 1
//   backward       x_bar     += seed w (p - t)                           p is saved
//   backward_jvp   x_bar_dot += seed w p (x_dot - <p, x_dot>)
#pragma once

#include "ops/card.hpp"
#include "ops/op.hpp"
#include "ops/pass_kind.hpp"

namespace fastmaml {

struct CrossEntropyArgs : Card {
  static constexpr const char* kName = "cross_entropy";
  static constexpr bool kResident = true;

  PassKind pass = PassKind::forward;
  int64_t rows = 0, classes = 0;
  double weight = 1;         // w
  double smoothing = 0;      // e
  int seed = Scalars::kOne;  // scalar slot
  Operand x;                 // in [rows, C]: logits; forward, backward
  Operand c;                 // in [rows] int64, 0 <= c < C; not read by backward_jvp
  Operand x_dot;             // in [rows, C]: backward_jvp
  Operand cin;               // in [rows, C]: what out starts from in the backward passes
  Operand p;                 // [rows, C]: out of backward, in of backward_jvp
  Operand out;               // out: L, or [rows, C] (x_bar, x_bar_dot)

  template <class Visit>
  void visit(Visit&& to) {
    const int64_t all = rows * classes;
    for (Operand* o : {&x, &x_dot, &cin}) to(*o, all, false);
    to(c, class_indices(rows), false);
    to(p, all, pass == PassKind::backward);
    to(out, goes_forward(pass) ? 1 : all, true);
  }
};

class CrossEntropy final : public LossOp {
 public:
  static constexpr const char* kName = "cross_entropy";
  using KernelArgs = CrossEntropyArgs;

  bool reads_classes() const override { return true; }
  void forward(Emit& emit, const Node& loss) const override;
  void backward(Emit& emit, const Node& loss) const override;
  void backward_jvp(Emit& emit, const Node& loss) const override;
};

}  // namespace fastmaml
