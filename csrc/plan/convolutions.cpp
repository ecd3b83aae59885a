#include "plan/convolutions.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "ops/conv2d/conv2d.hpp"

namespace fastmaml {
namespace {

// Estimated cycles of some passes of a layer over one task, direct and by Winograd's method.
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
  }

  MethodCost forward() {
    start(kForwardTile);
    const Settings& s = program_.settings;
    // What does not step is made once for each set.
    const bool steps = program_.network.moves[node_.output];
    set(s.support_rows, 1, steps ? s.inner_steps : std::min(s.inner_steps, 1));
    add(towards_out_, false);
    if (s.mode == Mode::adapt) return cost_;
    set(s.query_rows, 1, steps ? static_cast<double>(query_passes(s)) : 1);
    add(towards_out_, false);
    return cost_;
  }

  // What is behind the forward pass.
  MethodCost others(int64_t tile) {
    start(tile);
    const Settings& s = program_.settings;
    const bool meta = s.mode == Mode::meta_step;
    const Network& network = program_.network;
    const bool moves = network.moves[node_.output];
    const bool x_moves = network.moves[node_.inputs[0]], x_learns = network.learns[node_.inputs[0]];
    set(s.support_rows, 1, s.inner_steps);
    if (moves) add_backward(x_moves);
    if (meta && !s.first_order) {
      set(s.support_rows, moves ? 2 : 1, moves ? s.inner_steps : std::min(s.inner_steps, 1));
      if (moves) add(towards_out_, false);
      if (network.learns[node_.output]) add_backward(x_learns);
    }
    if (meta) {
      set(s.query_rows, 1, static_cast<double>(query_passes(s)));
      if (network.learns[node_.output]) add_backward(x_learns);
    }
    return cost_;
  }

 private:
  void start(int64_t tile) {
    towards_out_.winograd = winograd_map(window_, false, tile);
    towards_in_.winograd = winograd_map(window_, true, tile);
    cost_ = {};
  }
  // Two terms make a tangent, or the tangent of a cotangent.
  void set(int64_t images, int terms, double times) {
    times_ = times;
    for (ConvArgs* args : {&towards_out_, &towards_in_})
      args->images = images, args->terms.resize(static_cast<size_t>(terms));
  }
  void add_backward(bool wants_x_bar) {
    add(towards_out_, true);
    if (wants_x_bar) add(towards_in_, false);
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
  ConvArgs towards_out_, towards_in_;
  double times_ = 0;
  MethodCost cost_;
};

// The fastest of the tiles, or 0: the direct way. A tie goes to the way that rounds less.
class Choice {
 public:
  explicit Choice(double direct) : best_(direct) {
    estimates_ = message(static_cast<int64_t>(direct), " cycles direct");
  }
  void add(int64_t tile, double cycles) {
    if (cycles < 0.95 * best_) tile_ = tile, best_ = cycles;
    estimates_ += message(", ", static_cast<int64_t>(cycles), " by F(", tile, "x", tile, ")");
  }
  void force(int64_t tile) { tile_ = tile; }
  int64_t tile() const { return tile_; }
  std::string text() const {
    const std::string name = tile_ == 0 ? std::string("direct convolution")
                                        : message("Winograd's F(", tile_, "x", tile_, ",3x3)");
    return message(name, " (estimated ", estimates_, ")");
  }

 private:
  int64_t tile_ = 0;
  double best_;
  std::string estimates_;
};

}  // namespace

void choose_winograd(Program& program) {
  // Device code has one form of convolutions.
  if (program.settings.device) return;
  const int forced = program.settings.winograd;
  for (Node& node : program.network.nodes) {
    if (node.op_name != "conv2d" || node.attr("groups", 1) != 1) continue;
    if (!winograd_takes(window_of(node))) continue;
    Counter counter(program, node);
    const MethodCost cost = counter.forward();
    Choice forward(cost.direct), others(counter.others(kWinogradTiles[0]).direct);
    forward.add(kForwardTile, cost.winograd);
    for (const int64_t tile : kWinogradTiles) others.add(tile, counter.others(tile).winograd);
    if (forced >= 0) forward.force(forced > 0 ? kForwardTile : 0), others.force(forced);
    node.attrs["winograd_forward"] = forward.tile();
    node.attrs["winograd"] = others.tile();
    program.decisions.push_back(
        message("layer ", node.name, ": forward ", forward.text(), ", otherwise ", others.text()));
  }
}

}  // namespace fastmaml
