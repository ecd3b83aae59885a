// max_pool2d, avg_pool2d, adaptive_avg_pool2d over images, channel by channel.   x [R, H, W, C]
//
//   max    y[o] = max_tap x[in(o, tap)], and the first tap that holds it (a NaN wins, as in torch)
//          x_bar[i] += sum over o whose tap leads to i of y_bar[o]
//   avg    y[o] = sum_tap x[in(o, tap)] / divisor[o]
//          x_bar[i] += sum over (o, tap) with in(o, tap) = i of y_bar[o] / divisor[o]
//
// Given the taps of the maxima both are linear: the tangent passes are the primal ones on tangents.
// Attributes: those of `window_of` for max and avg; for avg count_include_pad and divisor (0: the
// window's own size). The windows of adaptive_avg_pool2d are [floor(o in / out), ceil((o + 1) in /
// out)).
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "ops/card.hpp"
#include "ops/linear_map.hpp"
#include "ops/window/stencil.hpp"

namespace fastmaml {

enum class PoolKind : int32_t { max, avg, adaptive_avg };
enum class PoolStep : int32_t { find_max, gather_max, scatter_max, gather_avg, scatter_avg };

// What a pool's four passes run on; made once for each node.
struct PoolMap {
  Stencil gather, scatter;
  std::vector<double> weights;  // avg: 1 / divisor of each output pixel

  template <class Hold>
  void holds(Hold&& hold) const {
    hold(gather), hold(scatter), hold(weights);
  }
};

struct DevicePoolArgs;
class Tables;

struct PoolArgs : Card {
  static constexpr const char* kName = "pool2d";
  using Device = DevicePoolArgs;

  PoolStep step = PoolStep::find_max;
  std::shared_ptr<const PoolMap> map;
  int64_t images = 0, channels = 0;
  Operand in;   // [R, pixels, C]: input pixels of find and gather, output pixels of scatter
  Operand tap;  // [R, output pixels, C] tap of each maximum: out of find_max, in of the other max
  Operand cin;  // scatter: what out starts from; absent: 0
  Operand out;

  int64_t lower(Tables& tables) const;

  template <class Visit>
  void visit(Visit&& to) {
    const bool scatters = step == PoolStep::scatter_max || step == PoolStep::scatter_avg;
    const int64_t x = images * map->gather.from_pixels * channels;
    const int64_t y = images * map->gather.to_pixels * channels;
    to(in, scatters ? y : x, false), to(cin, x, false);
    to(tap, y, step == PoolStep::find_max);
    to(out, scatters ? x : y, true);
  }
  template <class Hold>
  void holds(Hold&& hold) const {
    hold(map);
  }
};

class Pool2d final : public LinearMap {
 public:
  static constexpr std::pair<const char*, PoolKind> kNames[] = {
      {"adaptive_avg_pool2d", PoolKind::adaptive_avg},
      {"avg_pool2d", PoolKind::avg},
      {"max_pool2d", PoolKind::max},
  };
  using KernelArgs = PoolArgs;

  explicit Pool2d(PoolKind kind) : kind_(kind) {}
  MemoryOrder order(const Node&) const override { return MemoryOrder::channels_last; }
  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;
  void forward(Emit& emit, const Node& node) const override;  // of max finds the taps, too

 protected:
  void apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
             const Operand& y) const override;
  void transposed(Emit& emit, const Node& node, int i, const Operand& bar,
                  const Sink& to) const override;

 private:
  PoolArgs start(Emit& emit, const Node& node, PoolStep max_step, PoolStep avg_step) const;

  PoolKind kind_;
};

}  // namespace fastmaml
