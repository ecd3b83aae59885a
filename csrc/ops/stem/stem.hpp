// stem: the first layers of a network over images, as one: convolution of the input, batch norm
// with batch statistics, relu or none, and a max-pool whose windows touch.  x [R, H, W, I],
// y [R, OH, OW, F], weight w [patch, F] packed as in conv2d, norm_weight g, norm_bias b [F]
//
// The input depends on no parameter, so the moments of its patches (ops/patches) give the norm's
// statistics for any w, and the norm is folded into the convolution. What a pixel's output would
// be is made in cache, some images at a time, and never written to memory: only what the pool
// leaves of it is. With C = cov, per feature, z[w] the pre-activation of window w at its tap:
//
//   rstd = 1 / sqrt(w . C w + eps)
//   forward        y = pool(relu(x * (g rstd w) + b - g rstd w . mean))
//   backward       D = sum y_bar,   G = sum y_bar x[tap] - D mean          over windows with a tap
//                  A = rstd w . G,   B = rstd A
//                  g_bar = A,   b_bar = D,   w_bar = g rstd (G - B C w)
//   forward_jvp    rstd_dot = -rstd^3 w . C u,   s_dot = g rstd_dot + g_dot rstd
//                  w' = g rstd u + s_dot w;   y_dot = (x * w' + b_dot - w' . mean) at the tap
//   backward_jvp   D_dot, G_dot: those of y_bar_dot
//                  A_dot = rstd_dot w . G + rstd (u . G + w . G_dot)
//                  B_dot = rstd_dot A + rstd A_dot
//                  w_bar_dot = s_dot (G - B C w) + g rstd (G_dot - B_dot C w - B C u)
//
// The convolution's own bias is taken off by the norm and its cotangent is 0. Parameters: the
// convolution's weight and bias, the norm's weight and bias. Attributes: those of `window_of`,
// conv_h, conv_w; pool_h, pool_w; eps; relu.
#pragma once

#include "ops/card.hpp"
#include "ops/op.hpp"
#include "ops/pass_kind.hpp"
#include "ops/patches/patches.hpp"

namespace fastmaml {

// The algebra above, which knows pixels only through D, G and the moments.
struct StemArgs : Card {
  static constexpr const char* kName = "stem";

  PassKind pass = PassKind::forward;
  int64_t patch = 0, features = 0;
  double eps = 1e-5;
  Operand moments;              // in, see PatchArgs
  Operand w, g, b;              // in: g absent means 1, b (forward) 0
  Operand w_dot, g_dot, b_dot;  // in: tangent passes; absent where frozen
  Operand D, G;                 // in: backward, backward_jvp; G before D mean is taken off
  Operand D_dot, G_dot;         // in: backward_jvp
  Operand w_cin, g_cin, b_cin;  // in: what the outputs start from; absent means 0
  Operand w_out, g_out, b_out;  // out: forward, forward_jvp: the folded weight, and its bias as
                                // b_out; else cin + scale * bar (or bar_dot), absent where frozen
  int w_scale = Scalars::kOne, g_scale = Scalars::kOne, b_scale = Scalars::kOne;

  template <class Visit>
  void visit(Visit&& to) {
    const int64_t weight = patch * features;
    to(moments, moments_amount(patch), false);
    for (Operand* o : {&w, &w_dot, &G, &G_dot, &w_cin}) to(*o, weight, false);
    for (Operand* o : {&g, &b, &g_dot, &b_dot, &D, &D_dot, &g_cin, &b_cin}) to(*o, features, false);
    to(w_out, weight, true), to(g_out, features, true), to(b_out, features, true);
  }
};

class Stem final : public Op {
 public:
  static constexpr const char* kName = "stem";
  using KernelArgs = StemArgs;

  MemoryOrder order(const Node&) const override { return MemoryOrder::channels_last; }
  Packing packing(const Node& node, const Shape& weight) const override;
  // Only plan/rewrite.cpp makes one, of layers that were checked.
  void check(const Node& node, const std::vector<TensorSpec>&) const override;
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit& emit, const Node& node) const override;
  void forward_jvp(Emit& emit, const Node& node) const override;
  void backward_jvp(Emit& emit, const Node& node) const override;
};

}  // namespace fastmaml
