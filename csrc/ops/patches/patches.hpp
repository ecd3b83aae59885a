// patches: the first two moments of what a convolution's window sees, over all its places.
//
//   mean[p] = mean over (image, place) of x[p],     p = (tap, channel), 0 where a tap is outside
//   cov[p, q] = mean over (image, place) of (x[p] - mean[p]) (x[q] - mean[q])
//
// The mean of the convolution's output is then w . mean, its variance w . cov w, and its input's
// values are needed no more. Moments are kept in double whatever the dtype: a filter that answers
// to edges alone has a variance far below that of the pixels. They depend on no parameter, so they
// are made once for all inner steps. Attributes: those of `window_of`, conv_h, conv_w.
#pragma once

#include <memory>

#include "ops/card.hpp"
#include "ops/op.hpp"
#include "ops/window/stencil.hpp"

namespace fastmaml {

// The largest patch: what the kernels' registers and stacks are meant for.
constexpr int64_t kMostPatch = 64;

// Numbers of a buffer of mean [patch] and cov [patch, patch]: doubles, in numbers of either dtype.
inline int64_t moments_numel(int64_t patch) { return 2 * (patch + patch * patch); }
// The same as what an instruction touches.
inline Amount moments_amount(int64_t patch) { return doubles(patch + patch * patch); }

struct DevicePatchArgs;
class Tables;

struct PatchArgs : Card {
  static constexpr const char* kName = "patches";
  using Device = DevicePatchArgs;

  Window window;
  std::shared_ptr<const Stencil> stencil;
  int64_t images = 0, channels = 0;
  Operand x;    // in [images, from pixels, channels]
  Operand out;  // out: mean [patch], cov [patch, patch]

  int64_t lower(Tables& tables) const;

  template <class Visit>
  void visit(Visit&& to) {
    to(x, images * stencil->from_pixels * channels, false);
    to(out, moments_amount(stencil->taps * channels), true);
  }
  template <class Hold>
  void holds(Hold&& hold) const {
    hold(stencil);
  }
};

// The window of the convolution that a node stands for, whose output is attributes conv_h, conv_w.
Window patch_window(const Node& node);

class Patches final : public Op {
 public:
  static constexpr const char* kName = "patches";
  using KernelArgs = PatchArgs;

  MemoryOrder order(const Node&) const override { return MemoryOrder::channels_last; }
  void check(const Node&, const std::vector<TensorSpec>&) const override {}
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit&, const Node&) const override {}
  void forward_jvp(Emit&, const Node&) const override {}
  void backward_jvp(Emit&, const Node&) const override {}
};

}  // namespace fastmaml
