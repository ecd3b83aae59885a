// What the passes of every norm share: the buffers that they save, and where the cotangents of
// weight and bias go.
#pragma once

#include "plan/emit.hpp"

namespace fastmaml {

// Slots of saved buffers.
constexpr int kStats = 0, kCotangentMeans = 1, kTangentMeans = 2, kNormTaps = 3;

// Whether the node's own parameters leave anything to do for a pass that gives no x_bar.
inline bool wants_param_bars(const Emit& emit, const Node& node) {
  return emit.wants_param_bar(node, kWeight) || emit.wants_param_bar(node, kBias);
}

// Where the cotangents of weight and bias, or their tangents, go.
template <class NormArgs>
void set_param_sinks(Emit& emit, const Node& node, NormArgs& args) {
  if (emit.wants_param_bar(node, kWeight)) {
    const Sink sink = emit.param_bar(node, kWeight);
    args.weight_out = sink.out, args.weight_cin = sink.cin, args.weight_scale = sink.scale;
  }
  if (emit.wants_param_bar(node, kBias)) {
    const Sink sink = emit.param_bar(node, kBias);
    args.bias_out = sink.out, args.bias_cin = sink.cin, args.bias_scale = sink.scale;
  }
}

}  // namespace fastmaml
