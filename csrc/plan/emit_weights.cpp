// What passes see of parameters: versions, transposes, and where their cotangents and factors go.
#include "plan/emit.hpp"

namespace fastmaml {

bool Emit::trainable(const Node& node, size_t i) const {
  return !replays_ && node.has_param(i) && network_.tensors[tensor(node, i)].trainable;
}

bool Emit::factored(const Node& node, size_t i) const {
  return node.has_param(i) && factored_[tensor(node, i)];
}

Operand Emit::param(const Node& node, size_t i) { return phi_[version_][tensor(node, i)].w; }

Operand Emit::param_t(const Node& node, size_t i) {
  // A tensor that no step changed (frozen or factored) is theta in every version.
  const int t = tensor(node, i);
  const bool theta = phi_[version_][t].w == phi_[0][t].w;
  return transposed(phi_[theta ? 0 : version_][t], t);
}

Operand Emit::param_dot(const Node& node, size_t i) { return direction_[tensor(node, i)].w; }

Operand Emit::param_dot_t(const Node& node, size_t i) {
  return transposed(direction_[tensor(node, i)], tensor(node, i));
}

Operand Emit::transposed(Version& version, int tensor) {
  if (version.w_t) return version.w_t;
  const Shape& shape = network_.tensors[tensor].shape;
  if (packing_[tensor]) return transposed_packed(version, tensor);
  if (shape[0] == 1 || shape[1] == 1) return version.w_t = version.w;  // the same numbers in a row
  const bool theta = version.w == phi_[0][tensor].w;
  TransposeArgs args;
  args.in = version.w, args.rows = shape[0], args.cols = shape[1];
  args.out = version.w_t = buffer(shape[0] * shape[1], theta);
  theta ? prologue(args) : add(args);
  return version.w_t;
}

Operand Emit::transposed_packed(Version& version, int tensor) {
  const Packing& p = packing_[tensor];
  const bool theta = version.w == phi_[0][tensor].w;
  version.w_t = buffer(numel(network_.tensors[tensor].shape), theta);
  if (theta) {
    PermuteArgs args = pack(tensor, true);
    args.out = version.w_t;
    prologue(args);
  } else {
    TransposeArgs args;
    args.in = version.w, args.out = version.w_t;
    args.count = p.groups * p.taps, args.rows = p.in, args.cols = p.out;
    add(args);
  }
  return version.w_t;
}

Sink Emit::param_bar(const Node& node, size_t i) {
  const int t = tensor(node, i);
  if (phase_ == Phase::backward && !pass_->query) {
    const Operand out = dense(next_block_, t);
    const bool first = !next_written_[t];
    next_written_[t] = true;
    return {out, first ? phi_[version_][t].w : out, Scalars::neg_rate(pass_->step)};
  }
  const Operand out = dense(v_block_, t);
  const bool first = !v_written_[t];
  v_written_[t] = true;
  const int scale = pass_->query ? Scalars::kOne : Scalars::sweep(pass_->step);
  return {out, first ? Operand{} : out, scale};
}

const std::vector<Factor>& Emit::update_factors(const Node& node, size_t i) {
  return update_factors_[tensor(node, i)];
}

const std::vector<Factor>& Emit::sweep_factors(const Node& node, size_t i) {
  return sweep_factors_[tensor(node, i)];
}

void Emit::add_factor(const Node& node, size_t i, const Operand& a, const Operand& b,
                      int64_t rows) {
  if (replays_) return;
  Factor factor{a, b, rows};
  if (phase_ == Phase::backward && !pass_->query)
    factor.scale = Scalars::neg_rate(pass_->step);
  else if (!pass_->query)
    factor.gate = Scalars::sweep(pass_->step);
  waiting_[tensor(node, i)].push_back(factor);
}

}  // namespace fastmaml
