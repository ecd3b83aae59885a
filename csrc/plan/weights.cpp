#include "plan/weights.hpp"

#include <utility>

#include "core/error.hpp"

namespace fastmaml {
namespace {

constexpr int64_t kBlockGrain = 16;  // each tensor of a dense block starts on a cache line

}  // namespace

Weights::Weights(Draft& draft, std::vector<bool> factored)
    : draft_(draft), network_(draft.network()), layouts_(network_), factored_(std::move(factored)) {
  const size_t tensors = network_.tensors.size();
  write_packed();
  update_factors_.resize(tensors);
  sweep_factors_.resize(tensors);
  waiting_.resize(tensors);
  v_written_.assign(tensors, false);
  lay_out();
}

void Weights::write_packed() {
  phi_.emplace_back(network_.tensors.size());
  for (int t = 0; t < static_cast<int>(network_.tensors.size()); ++t) {
    if (!layouts_.packed(t)) {
      phi_[0][t].w = theta(t);
      continue;
    }
    draft_.label(network_.tensors[t].name + ".pack");
    PermuteArgs args = layouts_.pack(t, false);
    args.in = theta(t);
    args.out = phi_[0][t].w = draft_.buffer(numel(network_.tensors[t].shape), true);
    draft_.prologue(args);
  }
}

void Weights::lay_out() {
  offset_.assign(network_.tensors.size(), -1);
  const auto place = [&](bool adapted) {
    for (size_t t = 0; t < network_.tensors.size(); ++t) {
      const TensorSpec& tensor = network_.tensors[t];
      if (factored_[t] || tensor.adapted != adapted || !(adapted || tensor.trained)) continue;
      offset_[t] = v_numel_;
      v_numel_ += (numel(tensor.shape) + kBlockGrain - 1) / kBlockGrain * kBlockGrain;
    }
  };
  place(true);
  dense_numel_ = v_numel_;
  place(false);
}

Operand Weights::theta(int tensor) const {
  Operand theta;
  theta.space = kTensors + tensor;
  return theta;
}

Operand Weights::output(int tensor) const {
  Operand out;
  out.space = kTensors + static_cast<int>(network_.tensors.size()) + draft_.output(tensor);
  return out;
}

// --- what passes read ----------------------------------------------------------------------------

Operand Weights::now_t(int tensor) {
  // A tensor that no step changed (frozen or factored) is theta in every version.
  const bool theta = phi_[version_][tensor].w == phi_[0][tensor].w;
  return transposed(phi_[theta ? 0 : version_][tensor], tensor);
}

Operand Weights::transposed(Version& version, int tensor) {
  if (version.w_t) return version.w_t;
  const Shape& shape = network_.tensors[tensor].shape;
  if (layouts_.packed(tensor)) return transposed_packed(version, tensor);
  if (shape[0] == 1 || shape[1] == 1) return version.w_t = version.w;  // the same numbers in a row
  const bool still = version.w == phi_[0][tensor].w;
  TransposeArgs args;
  args.in = version.w, args.rows = shape[0], args.cols = shape[1];
  args.out = version.w_t = draft_.buffer(shape[0] * shape[1], still);
  still ? draft_.prologue(args) : draft_.body(args);
  return version.w_t;
}

Operand Weights::transposed_packed(Version& version, int tensor) {
  const bool still = version.w == phi_[0][tensor].w;
  version.w_t = draft_.buffer(numel(network_.tensors[tensor].shape), still);
  if (still) {
    PermuteArgs args = layouts_.pack(tensor, true);
    args.in = theta(tensor), args.out = version.w_t;
    draft_.prologue(args);
  } else {
    const Packing& p = layouts_.packing(tensor);
    TransposeArgs args;
    args.in = version.w, args.out = version.w_t;
    args.count = p.groups * p.taps, args.rows = p.in, args.cols = p.out;
    draft_.body(args);
  }
  return version.w_t;
}

// --- where cotangents go -------------------------------------------------------------------------

Sink Weights::update(int tensor, int step) {
  const Operand out = dense(next_block_, tensor);
  const bool first = !next_written_[tensor];
  next_written_[tensor] = true;
  if (!draft_.settings().rate_grad)
    return {out, first ? now(tensor) : out, Scalars::neg_rate(step)};
  const Operand g = dense(gradients_[step].block, tensor);
  return {g, first ? Operand{} : g, Scalars::kOne};
}

Sink Weights::cotangent(int tensor) {
  const Operand out = dense(v_block_, tensor);
  const bool first = !v_written_[tensor];
  v_written_[tensor] = true;
  return {out, first ? Operand{} : out, Scalars::kOne};
}

// --- the course of the program -------------------------------------------------------------------

void Weights::begin_update() {
  next_block_ = dense_numel_ ? draft_.buffer(dense_numel_) : Operand{};
  next_written_.assign(network_.tensors.size(), false);
  if (draft_.settings().rate_grad)
    gradients_.push_back({dense_numel_ ? draft_.buffer(dense_numel_) : Operand{}, {}});
}

void Weights::end_update() {
  if (draft_.settings().rate_grad) move_dense(version_);
  phi_.push_back(phi_.back());
  ++version_;
  for (int t = 0; t < static_cast<int>(network_.tensors.size()); ++t) {
    if (next_written_[t]) phi_[version_][t] = {dense(next_block_, t), {}};
    for (const Factor& factor : waiting_[t]) update_factors_[t].push_back(factor);
    waiting_[t].clear();
  }
}

// phi[step + 1] = phi[step] - alpha[step] g[step], of neighbours in the blocks at once.
void Weights::move_dense(int step) {
  gradients_[step].written = next_written_;
  draft_.label("phi - alpha g", step);
  for (size_t t = 0; t < offset_.size();) {
    const size_t first = t++;
    if (!next_written_[first]) continue;
    const Operand from = phi_[step][first].w;
    int64_t end = offset_[first] + numel(network_.tensors[first].shape);
    for (; t < offset_.size(); ++t) {
      if (offset_[t] < 0) continue;
      if (!next_written_[t] || phi_[step][t].w != from.at(offset_[t] - offset_[first])) break;
      end = offset_[t] + numel(network_.tensors[t].shape);
    }
    ContractArgs move;
    move.m = 1, move.n = end - offset_[first];
    move.c = next_block_.at(offset_[first]), move.c_row = move.cin_row = move.n;
    move.cin = from;
    move.scale = Scalars::neg_rate(step);
    const Operand g = gradients_[step].block.at(offset_[first]);
    move.terms = {{Operand{kScalars}, 0, 0, g, move.n, 1, 1}};
    draft_.body(std::move(move));
  }
}

void Weights::begin_query() {
  if (v_numel_) v_block_ = draft_.buffer(v_numel_);
}

void Weights::write_rate_dot(int step) {
  ContractArgs dot;
  dot.m = dot.n = 1;
  dot.c = Operand{kRateDots, -1, 0, draft_.settings().inner_steps, step}, dot.c_row = 1;
  draft_.label("<v, g>", step);
  for (int t = 0; t < static_cast<int>(network_.tensors.size()); ++t) {
    if (factored_[t])
      add_factored_dot(t, step, dot);
    else if (gradients_[step].written[t])
      add_dense_dot(t, step, dot);
  }
  draft_.body(std::move(dot));
}

void Weights::add_dense_dot(int tensor, int step, ContractArgs& dot) {
  const Operand v = dense(v_block_, tensor), g = dense(gradients_[step].block, tensor);
  const ContractTerm products{v, 0, 1, g, 1, 1, numel(network_.tensors[tensor].shape)};
  const int64_t runs = draft_.runs(products.k);
  if (runs == 1) {
    dot.terms.push_back(products);
    return;
  }
  ContractArgs part;
  part.m = part.n = part.c_row = 1, part.runs = runs;
  part.c = draft_.buffer(runs);
  part.terms = {products};
  dot.terms.push_back({Operand{kScalars}, 0, 0, part.c, 1, 1, runs});
  draft_.body(std::move(part));
}

// <A^T B, D^T X> = <A D^T, B X^T>, for each factor (A, B) of v and (D, X) of g.
void Weights::add_factored_dot(int tensor, int step, ContractArgs& dot) {
  const Shape& shape = network_.tensors[tensor].shape;
  const auto products = [&](const Operand& left, int64_t m, const Operand& right, int64_t n,
                            int64_t k) {
    ContractArgs args;
    args.m = m, args.n = args.c_row = n;
    args.c = draft_.buffer(m * n);
    args.terms = {{left, k, 1, right, 1, k, k}};
    const Operand out = args.c;
    draft_.body(std::move(args));
    return out;
  };
  for (const Factor& g : update_factors_[tensor]) {
    if (g.step != step) continue;
    for (const Factor& v : sweep_factors_[tensor]) {
      const Operand left = products(v.a, v.rows, g.a, g.rows, shape[0]);
      const Operand right = products(v.b, v.rows, g.b, g.rows, shape[1]);
      dot.terms.push_back({left, 0, 1, right, 1, 1, v.rows * g.rows});
    }
  }
}

void Weights::begin_sweep(int step) {
  version_ = step;
  // W[step] - W0 holds the factors of the earlier steps only.
  for (auto& factors : update_factors_)
    while (!factors.empty() && factors.back().step >= step) factors.pop_back();
  direction_.assign(network_.tensors.size(), {});
  if (!dense_numel_) return;
  u_block_ = draft_.buffer(dense_numel_);
  ContractArgs scale;  // u = -alpha v, all dense tensors at once
  scale.m = 1, scale.n = dense_numel_;
  scale.c = u_block_, scale.c_row = dense_numel_;
  scale.scale = Scalars::neg_rate(step);
  scale.terms = {{Operand{kScalars}, 0, 0, v_block_, dense_numel_, 1, 1}};
  draft_.label("u = -alpha v");
  draft_.body(scale);
  for (int t = 0; t < static_cast<int>(network_.tensors.size()); ++t)
    if (offset_[t] >= 0 && network_.tensors[t].adapted) direction_[t].w = dense(u_block_, t);
}

void Weights::end_cotangents() {
  for (size_t t = 0; t < waiting_.size(); ++t) {
    for (const Factor& factor : waiting_[t]) sweep_factors_[t].push_back(factor);
    waiting_[t].clear();
  }
}

void Weights::write_commit() {
  for (int t = 0; t < static_cast<int>(network_.tensors.size()); ++t) {
    const TensorSpec& spec = network_.tensors[t];
    if (!spec.trained) continue;
    if (factored_[t] ? sweep_factors_[t].empty() : !v_written_[t])
      throw InternalError(message("no layer gives `", spec.name, "` a cotangent"));
    draft_.label(spec.name + ".meta_grad");
    ContractArgs args;
    Operand grad = output(t);
    if (layouts_.packed(t)) {
      PermuteArgs back = layouts_.unpack(t);
      back.out = grad;
      grad = back.in = draft_.buffer(numel(spec.shape), true);
      draft_.epilogue(back);
    }
    args.c = grad;
    args.m = factored_[t] ? spec.shape[0] : 1;
    args.n = factored_[t] ? spec.shape[1] : numel(spec.shape);
    args.c_row = args.n;
    draft_.prologue(args);  // zero
    args.cin = grad, args.cin_row = args.n;
    if (!factored_[t]) args.terms = {{Operand{kScalars}, 0, 0, dense(v_block_, t), 0, 1, 1}};
    for (const Factor& f : sweep_factors_[t])
      args.terms.push_back({f.a, 1, spec.shape[0], f.b, spec.shape[1], 1, f.rows});
    draft_.commit(args);
  }
}

void Weights::write_fast_weights() {
  for (int t = 0; t < static_cast<int>(network_.tensors.size()); ++t) {
    const TensorSpec& spec = network_.tensors[t];
    if (!spec.adapted) continue;
    draft_.label(spec.name + ".fast");
    Operand out = output(t);
    out.stride = numel(spec.shape);
    if (layouts_.packed(t)) {
      PermuteArgs back = layouts_.unpack(t);
      back.in = now(t), back.out = out;
      draft_.body(back);
      continue;
    }
    ContractArgs copy;
    copy.m = 1, copy.n = out.stride, copy.c_row = copy.cin_row = copy.n;
    copy.c = out;
    copy.cin = now(t);
    draft_.body(copy);
  }
}

}  // namespace fastmaml
