// conv2d: y = x * W + b over images.              x [R, H, W, I], y [R, OH, OW, O], b [O]
//
//   y[r, o]          = b + sum_tap  x[r, in(o, tap)] W[tap]
//   x_bar[r, i]     += sum over (o, tap) with in(o, tap) = i of  y_bar[r, o] W[tap]^T
//   W_bar[tap]      += sum over (r, o) of  x[r, in(o, tap)]^T y_bar[r, o],   b_bar += sum y_bar
//   forward_jvp      y_dot = x_dot * W + x * U + u_b                          one accumulation
//   backward_jvp     x_bar_dot: y_bar_dot with W and y_bar with U;
//                    W_bar_dot: (x, y_bar_dot) and (x_dot, y_bar)             one accumulation each
//
// Images are channels-last, and a weight is kept packed as [groups, taps, I/groups, O/groups]
// (torch: [O, I/groups, kernel_h, kernel_w]), so that a tap is a matrix product of rows of
// channels. The pixels that a tap connects come from a `Stencil`; nothing is padded or copied.
// Where fewer multiplications are faster (attributes winograd_forward and winograd, the side of the
// tiles, set by the planner), see ops/winograd. Where the planner says so (attribute moments),
// forward leaves the moments of y for the batch norm that reads it. Parameters: weight, bias.
// Attributes: those of `window_of`, and groups.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/card.hpp"
#include "ops/contract/contract.hpp"
#include "ops/moments/moments.hpp"
#include "ops/op.hpp"
#include "ops/window/stencil.hpp"
#include "ops/winograd/winograd.hpp"

namespace fastmaml {

struct ConvTerm {
  Operand a;  // [images, from pixels, a_channels]
  Operand b;  // images form: weights [groups, taps, k, n]; weights form: [images, to pixels, n]
};

// images:   c[r, to, :]  = cin + sum_terms sum_taps a[r, from + shift, :] b[tap]
// weights:  c[tap]       = cin + scale * sum_terms sum_(r, pixel) a[r, from + shift]^T b[r, to]
struct DeviceConvArgs;
class Tables;

struct ConvArgs : Card {
  static constexpr const char* kName = "conv2d";
  using Device = DeviceConvArgs;

  bool weights = false;
  std::shared_ptr<const Stencil> stencil;
  int64_t images = 0, groups = 1;
  int64_t k = 0, n = 0;  // channels of a, and of b's images or c's, of one group
  Operand c, cin;        // cin absent: 0
  bool cin_row = false;  // images: cin is one row of channels for all pixels
  // weights, on devices: c is [splits, taps, k, n], a sum of its own for each run of pixels, whose
  // order follows from the shapes alone.
  int64_t splits = 1;
  int scale = 0;  // scalar slot, weights only
  std::vector<ConvTerm> terms;
  Winograd winograd;  // empty: one product for each tap
  // images: out [groups, 2, channels of c], see ops/moments; absent: not wanted.
  Operand moments;
  MomentGroups moment_groups;

  template <class Visit>
  void visit(Visit&& to) {
    const int64_t from = images * stencil->from_pixels * groups * k;
    const int64_t into = images * stencil->to_pixels * groups * n;
    const int64_t weight = groups * stencil->taps * k * n;
    const int64_t out = weights ? splits * weight : into;
    for (ConvTerm& term : terms)
      to(term.a, from, false), to(term.b, weights ? into : weight, false);
    to(cin, cin_row ? groups * n : out, false);
    to(c, out, true);
    to(moments, (moments ? moment_groups.count() : 0) * 2 * groups * n, true);
  }
  template <class Hold>
  void holds(Hold&& hold) const {
    hold(terms), hold(stencil);
  }
  // By Winograd's method with kept weights: the weights, then the pixels; see Context.
  int phases() const { return winograd && winograd.kept && !weights ? 2 : 1; }
  // Multiply-adds counted as two, those that a product for each tap has.
  double flops() const {
    return 2.0 * static_cast<double>(stencil->pairs() * images * groups * k * n) *
           static_cast<double>(terms.size());
  }
  // That of Winograd's method.
  size_t scratch_bytes(int64_t number) const {
    return winograd ? winograd_scratch_bytes(*this, number) : 0;
  }
  void settle() { terms.shrink_to_fit(); }
  std::string details() const;
  int64_t lower(Tables& tables) const;
};

// Adds `args` in the weights form. Devices sum many pixels in runs, which other blocks can take.
void add_weights(Emit& emit, ConvArgs args);

// The groups of forward's rows whose moments its epilogue leaves, over `images` images; none where
// the way it runs has no epilogue, or its output is too small for one to pay.
MomentGroups conv_moment_groups(const Settings& settings, const Node& node, int64_t images);

// How a convolution's weight [O, I / groups, KH, KW] lies.
inline Packing conv_packing(const Node& node, const Shape& weight) {
  const auto groups = static_cast<int64_t>(node.attr("groups", 1));
  return {groups, weight[2] * weight[3], weight[1], weight[0] / groups};
}

class Conv2d final : public Op {
 public:
  static constexpr const char* kName = "conv2d";
  using KernelArgs = ConvArgs;

  MemoryOrder order(const Node&) const override { return MemoryOrder::channels_last; }
  Packing packing(const Node& node, const Shape& weight) const override {
    return conv_packing(node, weight);
  }
  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit& emit, const Node& node) const override;
  void forward_jvp(Emit& emit, const Node& node) const override;
  void backward_jvp(Emit& emit, const Node& node) const override;
};

}  // namespace fastmaml
