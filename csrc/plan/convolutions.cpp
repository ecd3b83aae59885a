#include "plan/convolutions.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "ops/conv2d/conv2d.hpp"

namespace fastmaml {
namespace {

// Estimated cycles of all passes of a layer over one task: `direct`, and by Winograd's method with
// tiles of one size behind the forward pass.
struct MethodCost {
  double direct = 0, winograd = 0;
};

class Counter {
 public:
  Counter(const Program& program, const Node& node)
      : program_(program), node_(node), window_(window_of(node)) {
    towards_out_.stencil = std::make_shared<const Stencil>(gather(window_));
    towards_in_.stencil = std::make_shared<const Stencil>(scatter(window_));
    towards_out_.k = towards_in_.n = node.in_shapes[0][0];
    towards_out_.n = towards_in_.k = node.shape[0];
    forward_ = towards_out_;
    forward_.winograd = winograd_map(window_, false, kForwardTile);
  }

  MethodCost count(int64_t tile) {
    towards_out_.winograd = winograd_map(window_, false, tile);
    towards_in_.winograd = winograd_map(window_, true, tile);
    cost_ = {};
    const Settings& s = program_.settings;
    const bool meta = s.mode == Mode::meta_step;
    for (int terms : {1, 2}) {
      if (terms == 2 && (!meta || s.first_order)) break;
      set(s.support_rows, terms, s.inner_steps);
      add(true);
    }
    if (s.mode == Mode::adapt) return cost_;
    set(s.query_rows, 1, static_cast<double>(query_passes(s)));
    add(meta);
    return cost_;
  }

 private:
  void set(int64_t images, int terms, double times) {
    times_ = times;
    for (ConvArgs* args : {&forward_, &towards_out_, &towards_in_})
      args->images = images, args->terms.resize(static_cast<size_t>(terms));
  }
  void add(bool backward) {
    // One term is the forward pass, two are its tangent.
    add(towards_out_.terms.size() == 1 ? forward_ : towards_out_, false);
    if (!backward) return;
    add(towards_out_, true);
    if (program_.network.active[node_.inputs[0]]) add(towards_in_, false);
  }
  void add(ConvArgs& args, bool weights) {
    const int64_t bytes = element_bytes(program_.settings);
    args.weights = weights;
    set_winograd_blocks(args, bytes);
    cost_.direct += times_ * direct_cycles(args, bytes);
    cost_.winograd += times_ * winograd_cycles(args, bytes);
  }

  const Program& program_;
  const Node& node_;
  const Window window_;
  ConvArgs forward_, towards_out_, towards_in_;
  double times_ = 0;
  MethodCost cost_;
};

}  // namespace

void choose_winograd(Program& program) {
  // Device code has one form of convolutions.
  if (program.settings.device) return;
  for (Node& node : program.network.nodes) {
    if (node.op_name != "conv2d" || node.attr("groups", 1) != 1) continue;
    if (!winograd_takes(window_of(node))) continue;
    int64_t chosen = 0;
    Counter counter(program, node);
    double best = counter.count(kWinogradTiles[0]).direct;
    std::string estimates = message(static_cast<int64_t>(best), " cycles direct");
    for (const int64_t tile : kWinogradTiles) {
      const MethodCost cost = counter.count(tile);
      // A tie goes to the way that rounds less.
      if (cost.winograd < 0.95 * best) chosen = tile, best = cost.winograd;
      estimates +=
          message(", ", static_cast<int64_t>(cost.winograd), " by F(", tile, "x", tile, ")");
    }
    if (program.settings.winograd >= 0) chosen = program.settings.winograd;
    node.attrs["winograd"] = chosen;
    const std::string name =
        chosen == 0 ? "direct convolution"
                    : message("Winograd's convolution, F(", kForwardTile, "x", kForwardTile,
                              ",3x3) forward, F(", chosen, "x", chosen, ",3x3) otherwise");
    program.decisions.push_back(
        message("layer ", node.name, ": ", name, " (estimated ", estimates, ")"));
  }
}

}  // namespace fastmaml
