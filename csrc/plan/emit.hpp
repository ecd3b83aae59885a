// What an op's pass sees of the program being written.
//
// A pass (one inner step on the support set, or the query pass) owns its values' operands. Operands
// are handed out by role: y, y_bar (cotangent), y_dot (tangent), y_bar_dot. Outputs that several
// contributions share are handed out as a Sink: where to write, and what to start from.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "fastmaml.hpp"
#include "ops/args.hpp"
#include "ops/op.hpp"
#include "ops/window/stencil.hpp"
#include "plan/draft.hpp"
#include "plan/network.hpp"
#include "plan/weights.hpp"

namespace fastmaml {

// One pass over the network: its rows and the operands of its values, by canonical value id. What
// does not step has a pass of its own for each set, which is written once: the others find its
// values there, and add up there what its cotangents are.
struct Pass {
  int step = 0;  // inner step k; K for the query pass
  bool query = false;
  int64_t rows = 0;
  Pass* still = nullptr;  // the set's pass over what does not step; absent: this is it
  Operand targets;
  std::vector<Operand> y, y_bar, y_dot, y_bar_dot;
  std::map<int, Moments> moments;  // of the values whose makers leave them
  std::map<std::pair<const Node*, int>, Operand> saved;
};

class Emit {
 public:
  Emit(Draft& draft, Weights& weights)
      : draft_(draft), weights_(weights), network_(draft.network()) {}

  int64_t rows() const { return pass_->rows; }
  const Settings& settings() const { return draft_.settings(); }
  int64_t element_bytes() const { return fastmaml::element_bytes(settings()); }
  Operand x(const Node& node, int i) const { return pass_->y[node.inputs[i]]; }
  Operand y(const Node& node);  // made on first use
  // Of values that the set has once, not once a row.
  Operand y_of_set(const Node& node, int64_t numel);
  Operand y_bar(const Node& node) const { return pass_->y_bar[node.output]; }
  Operand x_dot(const Node& node, int i) const { return pass_->y_dot[node.inputs[i]]; }
  Operand y_dot(const Node& node);
  Operand y_bar_dot(const Node& node) const { return pass_->y_bar_dot[node.output]; }
  Sink x_bar(const Node& node, int i);      // call once for each contribution
  Sink x_bar_dot(const Node& node, int i);  // likewise
  // A buffer of `numel` numbers that belongs to (pass, node, slot): made on first use.
  Operand saved(const Node& node, int slot, int64_t numel);
  Operand scratch(int64_t numel);
  // What a node's instructions share in all passes, such as a pool's maps: made on first use.
  template <class Make>
  auto once(const Node& node, int slot, Make&& make) {
    using Made = decltype(make());
    std::shared_ptr<const void>& made = made_[{&node, slot}];
    if (!made) made = std::make_shared<const Made>(make());
    return std::static_pointer_cast<const Made>(made);
  }
  // The map of a window's pixels, to its output or back: one for all layers of this window.
  std::shared_ptr<const Stencil> gathered(const Window& window);
  std::shared_ptr<const Stencil> scattered(const Window& window);
  int64_t runs(int64_t pixels, int64_t blocks = 1) const { return draft_.runs(pixels, blocks); }
  // Those that the maker of input i left of it: absent where it did not.
  Moments moments(const Node& node, int i) const;
  // Where the node leaves those of its output.
  Operand leave_moments(const Node& node, const MomentGroups& groups);

  // Whether this pass gives x_bar (or x_bar_dot): cotangents of inner steps end where nothing below
  // is adapted, all others where nothing below is learned.
  bool wants_x_bar(const Node& node, int i) const {
    return (updates() ? network_.moves : network_.learns)[node.inputs[i]];
  }
  // Whether x_bar_dot will be wanted of this node, or is.
  bool x_learns(const Node& node, int i) const { return network_.learns[node.inputs[i]]; }
  // Whether x_dot is there, or else 0.
  bool x_moves(const Node& node, int i) const { return network_.moves[node.inputs[i]]; }
  // Likewise for parameter i.
  bool wants_param_bar(const Node& node, size_t i) const {
    if (replays_ || !node.has_param(i)) return false;
    const TensorSpec& tensor = network_.tensors[node.params[i]];
    return tensor.adapted || (tensor.trained && !updates());
  }
  bool param_moves(const Node& node, size_t i) const {
    return node.has_param(i) && network_.tensors[node.params[i]].adapted;
  }
  // What parameter i is now, and u, both also transposed.
  bool factored(const Node& node, size_t i) const {
    return node.has_param(i) && weights_.factored(node.params[i]);
  }
  Operand param(const Node& node, size_t i) { return weights_.now(node.params[i]); }
  Operand param_t(const Node& node, size_t i) { return weights_.now_t(node.params[i]); }
  Operand param_dot(const Node& node, size_t i) { return weights_.direction(node.params[i]); }
  Operand param_dot_t(const Node& node, size_t i) { return weights_.direction_t(node.params[i]); }
  // Where p_bar (backward: into phi[k+1] or v) or p_bar_dot (into v) of this parameter goes.
  Sink param_bar(const Node& node, size_t i);
  // Factored weights: the factors of W[k] - W0 and of u, and a new one for the current phase.
  const std::vector<Factor>& update_factors(const Node& node, size_t i) const {
    return weights_.update_factors(node.params[i]);
  }
  const std::vector<Factor>& direction_factors(const Node& node, size_t i) const {
    return weights_.direction_factors(node.params[i]);
  }
  void add_factor(const Node& node, size_t i, const Operand& a, const Operand& b, int64_t rows);

  Operand targets() const { return pass_->targets; }
  Operand loss() const;
  int seed() const { return pass_->query ? Scalars::kSeed : Scalars::kOne; }
  int share() const { return pass_->query ? Scalars::kQueryShare : Scalars::kSupportShare; }
  int neg_rate() const { return Scalars::neg_rate(pass_->step); }

  void add(Args args) { draft_.body(std::move(args)); }

  // The program writer's view: which pass this is.
  enum class Phase { forward, backward, forward_jvp, backward_jvp };
  Pass make_pass(int step, bool query) const;
  Pass make_pass(int step, bool query, Pass& still) const;  // of what steps
  void enter(Pass& pass, Phase phase) { pass_ = &pass, phase_ = phase; }
  void replay(bool on) { replays_ = on; }  // passes run again for their values alone

 private:
  // Whether this is the backward pass of an inner step.
  bool updates() const { return phase_ == Phase::backward && !pass_->query && pass_->still; }
  Sink contribution(Operand& bar, const Node& node, int i);

  Draft& draft_;
  Weights& weights_;
  const Network& network_;
  std::map<std::pair<const Node*, int>, std::shared_ptr<const void>> made_;
  std::map<Window, std::shared_ptr<const Stencil>> gathered_, scattered_;
  bool replays_ = false;
  Pass* pass_ = nullptr;
  Phase phase_ = Phase::forward;
};

}  // namespace fastmaml
