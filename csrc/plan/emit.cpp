#include "plan/emit.hpp"

#include "core/error.hpp"
#include "plan/footprint.hpp"
#include "plan/fuse.hpp"
#include "plan/lifetime.hpp"

namespace fastmaml {
namespace {

constexpr int64_t kBlockGrain = 16;  // each tensor of a dense block starts on a cache line

// Programs are kept, and many steps' terms are most of them: none has room for more.
void tidy(Args& args) {
  if (auto* contract = args_if<ContractArgs>(args)) {
    normalize(*contract);
    contract->terms.shrink_to_fit();
  } else if (auto* conv = args_if<ConvArgs>(args)) {
    conv->terms.shrink_to_fit();
  }
}

}  // namespace

Emit::Emit(Program& program, const std::vector<bool>& factored)
    : program_(program), network_(program.network), factored_(factored) {
  const size_t tensors = network_.tensors.size();
  find_packings();
  phi_.emplace_back(tensors);
  for (size_t t = 0; t < tensors; ++t) {
    if (packing_[t]) {
      label(network_.tensors[t].name + ".pack");
      PermuteArgs args = pack(static_cast<int>(t), false);
      args.out = phi_[0][t].w = buffer(numel(network_.tensors[t].shape), true);
      prologue(args);
    } else {
      phi_[0][t].w = theta(static_cast<int>(t));
    }
  }
  update_factors_.resize(tensors);
  sweep_factors_.resize(tensors);
  waiting_.resize(tensors);
  v_written_.assign(tensors, false);
  dense_layout();
}

Operand Emit::theta(int tensor) const {
  Operand theta;
  theta.space = kTensors + tensor;
  return theta;
}

void Emit::find_packings() {
  packing_.resize(network_.tensors.size());
  for (const Node& node : network_.nodes) {
    if (node.op_name != "conv2d" && node.op_name != "stem") continue;
    const Shape& shape = network_.tensors[node.params[0]].shape;
    const auto groups = static_cast<int64_t>(node.attr("groups", 1));
    const Packing packing{groups, shape[2] * shape[3], shape[1], shape[0] / groups};
    Packing& known = packing_[node.params[0]];
    if (known && known.groups != groups)
      throw UnsupportedModelError(message("layer `", node.name, "`: a weight is shared between ",
                                          "convolutions of ", known.groups, " and ", groups,
                                          " groups"));
    known = packing;
  }
}

// From torch's [G, O, I, taps]: to [G, taps, I, O], or transposed to [G, taps, O, I].
PermuteArgs Emit::pack(int tensor, bool transposed) const {
  const Packing& p = packing_[tensor];
  PermuteArgs args;
  args.in = theta(tensor);
  args.size[0] = p.groups, args.stride[0] = p.out * p.in * p.taps;
  args.size[1] = p.taps, args.stride[1] = 1;
  args.size[2] = transposed ? p.out : p.in, args.stride[2] = transposed ? p.in * p.taps : p.taps;
  args.size[3] = transposed ? p.in : p.out, args.stride[3] = transposed ? p.taps : p.in * p.taps;
  return args;
}

// Back to torch's order.
PermuteArgs Emit::unpack(int tensor) const {
  const Packing& p = packing_[tensor];
  PermuteArgs args;
  args.size[0] = p.groups, args.stride[0] = p.taps * p.in * p.out;
  args.size[1] = p.out, args.stride[1] = 1;
  args.size[2] = p.in, args.stride[2] = p.out;
  args.size[3] = p.taps, args.stride[3] = p.in * p.out;
  return args;
}

void Emit::dense_layout() {
  dense_offset_.assign(network_.tensors.size(), -1);
  for (size_t t = 0; t < network_.tensors.size(); ++t) {
    if (!network_.tensors[t].trainable || factored_[t]) continue;
    dense_offset_[t] = dense_numel_;
    const int64_t n = numel(network_.tensors[t].shape);
    dense_numel_ += (n + kBlockGrain - 1) / kBlockGrain * kBlockGrain;
  }
}

Operand Emit::buffer(int64_t numel, bool shared) {
  Operand o;
  o.buffer = static_cast<int32_t>(buffers_.size());
  o.stride = shared ? 0 : numel;
  buffers_.push_back({numel, shared});
  return o;
}

Operand Emit::dense(const Operand& block, int tensor) const {
  return block.at(dense_offset_[tensor]);
}

void Emit::label(const std::string& name, int step) {
  const auto [found, added] = names_.try_emplace(name, static_cast<int32_t>(program_.names.size()));
  if (added) program_.names.push_back(name);
  label_ = {found->second, step};
}

void Emit::append(std::vector<Instruction>& section, Args args) {
  tidy(args);
  bytes_ += static_cast<int64_t>(sizeof(Instruction) + args_bytes(args));
  const Settings& s = program_.settings;
  // Less than half is fused away in the end.
  if (s.most_bytes > 0 && bytes_ / 2 > s.most_bytes)
    throw SettingError(message("the program of inner_steps=", s.inner_steps, " must have at most ",
                               s.most_bytes, " bytes, and has more; raise max_workspace_bytes or ",
                               "give fewer inner steps"));
  section.push_back({std::move(args), label_});
}

void Emit::add(Args args) { append(program_.body, std::move(args)); }
void Emit::prologue(Args args) { append(program_.prologue, std::move(args)); }
void Emit::commit(Args args) { append(program_.commit, std::move(args)); }
void Emit::epilogue(Args args) { append(program_.epilogue, std::move(args)); }

// --- values --------------------------------------------------------------------------------------

Pass Emit::make_pass(int step, bool query) {
  Pass pass;
  pass.step = step, pass.query = query;
  pass.rows = query ? program_.settings.query_rows : program_.settings.support_rows;
  const size_t values = network_.value_shapes.size();
  for (auto* list : {&pass.y, &pass.y_bar, &pass.y_dot, &pass.y_bar_dot}) list->resize(values);
  pass.y[0] = Operand{query ? kQueryX : kSupportX, -1, 0, pass.rows * program_.input_numel};
  pass.targets = Operand{query ? kQueryY : kSupportY, -1, 0, pass.rows * program_.target_numel};
  const int64_t logits = pass.rows * program_.output_numel, sets = query_passes(program_.settings);
  if (query)
    pass.y[network_.output] = Operand{kLogits, -1, 0, sets * logits, sets > 1 ? step * logits : 0};
  return pass;
}

Operand Emit::y(const Node& node) {
  Operand& y = pass_->y[node.output];
  if (!y) y = buffer(pass_->rows * numel(node.shape));
  return y;
}

Operand Emit::y_of_set(const Node& node, int64_t numel) {
  Operand& y = pass_->y[node.output];
  if (!y) y = buffer(numel);
  return y;
}

Operand Emit::y_dot(const Node& node) {
  Operand& y_dot = pass_->y_dot[node.output];
  if (!y_dot) y_dot = buffer(pass_->rows * numel(node.shape));
  return y_dot;
}

Sink Emit::x_bar(const Node& node, int i) {
  Operand& x_bar = pass_->y_bar[node.inputs[i]];
  const bool first = !x_bar;
  if (first) x_bar = buffer(pass_->rows * numel(node.in_shapes[i]));
  return {x_bar, first ? Operand{} : x_bar, Scalars::kOne};
}

Sink Emit::x_bar_dot(const Node& node, int i) {
  Operand& x_bar_dot = pass_->y_bar_dot[node.inputs[i]];
  const bool first = !x_bar_dot;
  if (first) x_bar_dot = buffer(pass_->rows * numel(node.in_shapes[i]));
  return {x_bar_dot, first ? Operand{} : x_bar_dot, Scalars::kOne};
}

Operand Emit::saved(const Node& node, int slot, int64_t numel) {
  Operand& saved = pass_->saved[{&node, slot}];
  if (!saved) saved = buffer(numel);
  return saved;
}

Operand Emit::scratch(int64_t numel) { return buffer(numel); }

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
  left = {buffer(groups.count() * 2 * node.shape[0]), groups};
  return left.at;
}

Operand Emit::loss() const {
  const int64_t sets = query_passes(program_.settings);
  return Operand{kLosses, -1, 0, sets, sets > 1 ? pass_->step : 0};
}

Operand Emit::loss_dot() const {
  return Operand{kLossDots, -1, 0, program_.settings.inner_steps, pass_->step};
}

// --- the program's own steps ---------------------------------------------------------------------

void Emit::begin_update() {
  next_block_ = dense_numel_ ? buffer(dense_numel_) : Operand{};
  next_written_.assign(network_.tensors.size(), false);
}

void Emit::end_update() {
  phi_.push_back(phi_.back());
  ++version_;
  for (size_t t = 0; t < network_.tensors.size(); ++t) {
    if (next_written_[t]) phi_[version_][t] = {dense(next_block_, static_cast<int>(t)), {}};
    for (Factor& factor : waiting_[t]) update_factors_[t].push_back(factor);
    waiting_[t].clear();
  }
}

void Emit::begin_query() {
  if (dense_numel_) v_block_ = buffer(dense_numel_);
}

void Emit::begin_sweep(int step) {
  end_sweep();
  version_ = step;
  // W[step] - W0 holds the factors of the earlier steps only.
  for (auto& factors : update_factors_)
    while (!factors.empty() && factors.back().scale >= Scalars::neg_rate(step)) factors.pop_back();
  direction_.assign(network_.tensors.size(), {});
  if (!dense_numel_) return;
  u_block_ = buffer(dense_numel_);
  ContractArgs scale;  // u = sigma v, all dense tensors at once
  scale.m = 1, scale.n = dense_numel_;
  scale.c = u_block_, scale.c_row = dense_numel_;
  scale.scale = Scalars::sigma(step);
  scale.terms = {{Operand{kScalars}, 0, 0, v_block_, dense_numel_, 1, 1}};
  label("u = sigma v");
  add(scale);
  for (size_t t = 0; t < network_.tensors.size(); ++t)
    if (dense_offset_[t] >= 0) direction_[t].w = dense(u_block_, static_cast<int>(t));
}

void Emit::end_sweep() {
  for (size_t t = 0; t < waiting_.size(); ++t) {
    for (Factor& factor : waiting_[t]) sweep_factors_[t].push_back(factor);
    waiting_[t].clear();
  }
}

Operand Emit::output(int tensor) const {
  Operand out;
  out.space = kTensors + static_cast<int>(network_.tensors.size()) + network_.trainable[tensor];
  return out;
}

void Emit::write_commit() {
  for (size_t t = 0; t < network_.tensors.size(); ++t) {
    const TensorSpec& spec = network_.tensors[t];
    if (!spec.trainable) continue;
    if (factored_[t] ? sweep_factors_[t].empty() : !v_written_[t])
      throw InternalError(message("no layer gives `", spec.name, "` a cotangent"));
    label(spec.name + ".meta_grad");
    ContractArgs args;
    Operand grad = output(static_cast<int>(t));
    if (packing_[t]) {
      PermuteArgs back = unpack(static_cast<int>(t));
      back.out = grad;
      grad = back.in = buffer(numel(spec.shape), true);
      epilogue(back);
    }
    args.c = grad;
    args.m = factored_[t] ? spec.shape[0] : 1;
    args.n = factored_[t] ? spec.shape[1] : numel(spec.shape);
    args.c_row = args.n;
    prologue(args);  // zero
    args.cin = grad, args.cin_row = args.n;
    if (!factored_[t])
      args.terms = {{Operand{kScalars}, 0, 0, dense(v_block_, static_cast<int>(t)), 0, 1, 1}};
    for (const Factor& f : sweep_factors_[t])
      args.terms.push_back({f.a, 1, spec.shape[0], f.b, spec.shape[1], 1, f.rows, f.gate});
    commit(args);
  }
}

void Emit::write_fast_weights() {
  for (size_t t = 0; t < network_.tensors.size(); ++t) {
    const TensorSpec& spec = network_.tensors[t];
    if (!spec.trainable) continue;
    label(spec.name + ".fast");
    Operand out = output(static_cast<int>(t));
    out.stride = numel(spec.shape);
    if (packing_[t]) {
      PermuteArgs back = unpack(static_cast<int>(t));
      back.in = phi_[version_][t].w, back.out = out;
      add(back);
      continue;
    }
    ContractArgs copy;
    copy.m = 1, copy.n = out.stride, copy.c_row = copy.cin_row = copy.n;
    copy.c = out;
    copy.cin = phi_[version_][t].w;
    add(copy);
  }
}

void Emit::place(Poller& poll) {
  fuse_relu(program_, buffers_.size());
  std::vector<int64_t> numels;
  std::vector<bool> shared;
  for (const Buffer& buffer : buffers_) {
    numels.push_back(buffer.numel);
    shared.push_back(buffer.shared);
  }
  place_buffers(program_, numels, shared, poll);
}

}  // namespace fastmaml
