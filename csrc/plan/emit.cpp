#include "plan/emit.hpp"

namespace fastmaml {

Pass Emit::make_pass(int step, bool query) const {
  Pass pass;
  pass.step = step, pass.query = query;
  pass.rows = query ? settings().query_rows : settings().support_rows;
  const size_t values = network_.value_shapes.size();
  for (auto* list : {&pass.y, &pass.y_bar, &pass.y_dot, &pass.y_bar_dot}) list->resize(values);
  pass.y[0] = Operand{query ? kQueryX : kSupportX, -1, 0, pass.rows * draft_.input_numel()};
  pass.targets = Operand{query ? kQueryY : kSupportY, -1, 0, pass.rows * draft_.target_numel()};
  const int64_t logits = pass.rows * draft_.output_numel(), sets = query_passes(settings());
  if (query)
    pass.y[network_.output] = Operand{kLogits, -1, 0, sets * logits, sets > 1 ? step * logits : 0};
  return pass;
}

Pass Emit::make_pass(int step, bool query, Pass& still) const {
  Pass pass = make_pass(step, query);
  pass.still = &still;
  for (size_t v = 0; v < network_.moves.size(); ++v)
    if (!network_.moves[v]) pass.y[v] = still.y[v];
  for (const auto& [v, moments] : still.moments) pass.moments[v] = moments;
  return pass;
}

Operand Emit::y(const Node& node) {
  Operand& y = pass_->y[node.output];
  if (!y) y = draft_.buffer(pass_->rows * numel(node.shape));
  return y;
}

Operand Emit::y_of_set(const Node& node, int64_t numel) {
  Operand& y = pass_->y[node.output];
  if (!y) y = draft_.buffer(numel);
  return y;
}

Operand Emit::y_dot(const Node& node) {
  Operand& y_dot = pass_->y_dot[node.output];
  if (!y_dot) y_dot = draft_.buffer(pass_->rows * numel(node.shape));
  return y_dot;
}

Sink Emit::contribution(Operand& bar, const Node& node, int i) {
  const bool first = !bar;
  if (first) bar = draft_.buffer(pass_->rows * numel(node.in_shapes[i]));
  return {bar, first ? Operand{} : bar, Scalars::kOne};
}

Sink Emit::x_bar(const Node& node, int i) {
  const bool steps = network_.moves[node.inputs[i]];
  Pass& to = pass_->still && !steps ? *pass_->still : *pass_;
  return contribution(to.y_bar[node.inputs[i]], node, i);
}

// Where x does not step, its own backward pass is linear in y_bar and takes the sum over all steps.
Sink Emit::x_bar_dot(const Node& node, int i) {
  if (!network_.moves[node.inputs[i]]) return x_bar(node, i);
  return contribution(pass_->y_bar_dot[node.inputs[i]], node, i);
}

Operand Emit::saved(const Node& node, int slot, int64_t numel) {
  Operand& saved = pass_->saved[{&node, slot}];
  if (!saved) saved = draft_.buffer(numel);
  return saved;
}

Operand Emit::scratch(int64_t numel) { return draft_.buffer(numel); }

std::shared_ptr<const Stencil> Emit::gathered(const Window& window) {
  auto& made = gathered_[window];
  if (!made) made = std::make_shared<const Stencil>(gather(window));
  return made;
}

std::shared_ptr<const Stencil> Emit::scattered(const Window& window) {
  auto& made = scattered_[window];
  if (!made) made = std::make_shared<const Stencil>(scatter(window));
  return made;
}

Moments Emit::moments(const Node& node, int i) const {
  const auto found = pass_->moments.find(node.inputs[i]);
  return found == pass_->moments.end() ? Moments{} : found->second;
}

Operand Emit::leave_moments(const Node& node, const MomentGroups& groups) {
  Moments& left = pass_->moments[node.output];
  left = {draft_.buffer(groups.count() * 2 * node.shape[0]), groups};
  return left.at;
}

Operand Emit::loss() const {
  const int64_t sets = query_passes(settings());
  return Operand{kLosses, -1, 0, sets, sets > 1 ? pass_->step : 0};
}

// --- parameters ----------------------------------------------------------------------------------

Sink Emit::param_bar(const Node& node, size_t i) {
  const int tensor = node.params[i];
  if (updates()) return weights_.update(tensor, pass_->step);
  return weights_.cotangent(tensor);
}

void Emit::add_factor(const Node& node, size_t i, const Operand& a, const Operand& b,
                      int64_t rows) {
  Factor factor{a, b, rows, pass_->step};
  if (updates()) factor.scale = Scalars::neg_rate(pass_->step);
  weights_.add_factor(node.params[i], factor);
}

}  // namespace fastmaml
