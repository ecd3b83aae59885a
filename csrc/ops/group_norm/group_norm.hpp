// group_norm, layer_norm: each group of a row's numbers normalised over itself.   x, y [R, P, C]
//
// Channels c are split into G groups of C / G; the N = P C / G numbers of a (row, group) are one
// set, with mean and rstd of its own. weight and bias are [C].
//
//   group_norm   images [C, H, W], channels last: P = H W;  rows [C]: P = 1.  Instance norm: G = C
//   layer_norm   over the last dimensions, C numbers: G = P = 1, R counts the leading ones too
//
//   mean = mean_set x,  rstd = 1 / sqrt(mean_set (x - mean)^2 + eps),  h = (x - mean) rstd
//
//   forward        y = weight h + bias
//   backward       d = weight y_bar,   m1 = mean_set d,   m2 = mean_set d h
//                  x_bar += rstd (d - m1 - h m2)
//                  weight_bar = sum_{r,p} y_bar h,   bias_bar = sum_{r,p} y_bar
//   forward_jvp    n1 = mean_set x_dot,   n2 = mean_set x_dot h
//                  h_dot = rstd (x_dot - n1 - h n2),   rstd_dot = -rstd^2 n2
//                  y_dot = weight h_dot + weight_dot h + bias_dot
//   backward_jvp   d_dot = weight y_bar_dot + weight_dot y_bar
//                  m1_dot = mean_set d_dot,   m2_dot = mean_set (d_dot h + d h_dot)
//                  x_bar_dot += rstd_dot (d - m1 - h m2)
//                             + rstd (d_dot - m1_dot - h_dot m2 - h m2_dot)
//                  weight_bar_dot = sum_{r,p} (y_bar_dot h + y_bar h_dot)
//                  bias_bar_dot = sum_{r,p} y_bar_dot
//
// Without affine parameters weight is 1 and bias 0; a frozen one has neither _bar nor _dot.
// Parameters: weight, bias. Attributes: eps; groups (group_norm); dims (layer_norm).
#pragma once

#include <utility>

#include "ops/card.hpp"
#include "ops/op.hpp"
#include "ops/pass_kind.hpp"

namespace fastmaml {

struct GroupNormArgs : Card {
  static constexpr const char* kName = "group_norm";

  PassKind pass = PassKind::forward;
  double eps = 1e-5;
  int64_t rows = 0, pixels = 1, channels = 0, groups = 1;  // R, P, C, G
  Operand x;                                               // in [R, P, C]: always
  Operand weight;                                          // in [C]: always, absent means 1
  Operand bias;                                            // in [C]: forward, absent means 0
  Operand y_bar;                                           // in [R, P, C]: backward, backward_jvp
  Operand x_dot;                 // in [R, P, C]: tangent passes; absent when x does not move
  Operand weight_dot;            // in [C]: tangent passes; absent when frozen
  Operand bias_dot;              // in [C]: forward_jvp; absent when frozen
  Operand y_bar_dot;             // in [R, P, C]: backward_jvp
  Operand stats;                 // [2, R, G] mean, rstd: out of forward, in of the others
  Operand m;                     // [2, R, G] m1, m2: out of backward, in of backward_jvp
  Operand n;                     // [2, R, G] n1, n2: out of forward_jvp, in of backward_jvp
  Operand cin;                   // in [R, P, C]: what out starts from; absent means 0
  Operand out;                   // out [R, P, C]: y, x_bar, y_dot, x_bar_dot; absent: not wanted
  Operand weight_cin, bias_cin;  // in [C]: what the two below start from; absent means 0
  Operand weight_out, bias_out;  // out [C]: cin + scale * bar (or bar_dot); absent: frozen
  int weight_scale = Scalars::kOne, bias_scale = Scalars::kOne;  // scalar slots

  template <class Visit>
  void visit(Visit&& to) {
    const int64_t all = rows * pixels * channels, sets = 2 * rows * groups;
    for (Operand* o : {&x, &y_bar, &x_dot, &y_bar_dot, &cin}) to(*o, all, false);
    for (Operand* o : {&weight, &bias, &weight_dot, &bias_dot, &weight_cin, &bias_cin})
      to(*o, channels, false);
    to(stats, sets, pass == PassKind::forward);
    to(m, sets, pass == PassKind::backward);
    to(n, sets, pass == PassKind::forward_jvp);
    to(out, all, true), to(weight_out, channels, true), to(bias_out, channels, true);
  }
};

enum class NormOver : int32_t { groups, last_dims };

class GroupNorm final : public Op {
 public:
  static constexpr std::pair<const char*, NormOver> kNames[] = {
      {"group_norm", NormOver::groups},
      {"layer_norm", NormOver::last_dims},
  };
  using KernelArgs = GroupNormArgs;

  explicit GroupNorm(NormOver over) : over_(over) {}
  MemoryOrder order(const Node& node) const override {
    return over_ == NormOver::groups && node.shape.size() == 3 ? MemoryOrder::channels_last
                                                               : MemoryOrder::torch;
  }
  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit& emit, const Node& node) const override;
  void forward_jvp(Emit& emit, const Node& node) const override;
  void backward_jvp(Emit& emit, const Node& node) const override;

 private:
  GroupNormArgs start(Emit& emit, const Node& node, PassKind pass) const;
  int64_t channels(const Node& node) const;

  NormOver over_;
};

}  // namespace fastmaml
