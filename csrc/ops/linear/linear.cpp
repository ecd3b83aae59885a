#include "ops/linear/linear.hpp"

#include "core/error.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

struct LinearSizes {
  int64_t rows, in, out;
};

LinearSizes linear_sizes(const Emit& emit, const Node& node) {
  const int64_t in = node.in_shapes[0].back(), out = node.shape.back();
  return {emit.rows() * (numel(node.in_shapes[0]) / in), in, out};
}

// y[R, n] += scale * x_like[R, k] M with M = sum over factors of to[rows, n] from[rows, k]:
// first the inner products s = scale * x_like from^T, then one contraction s `to` over all factors.
// Appends the terms of the second to `terms`.
void factor_terms(Emit& emit, const std::vector<Factor>& factors, bool towards_out,
                  const Operand& x, int64_t rows, int64_t in, int64_t out, int scale,
                  std::vector<ContractTerm>& terms) {
  for (const Factor& factor : factors) {
    const Operand& from = towards_out ? factor.b : factor.a;
    const Operand& to = towards_out ? factor.a : factor.b;
    const int64_t k = towards_out ? in : out, n = towards_out ? out : in;
    ContractArgs s;
    s.m = rows, s.n = factor.rows;
    s.c = emit.scratch(rows * factor.rows), s.c_row = factor.rows;
    s.scale = scale >= 0 ? scale : factor.scale;
    s.terms = {{x, k, 1, from, 1, k, k}};
    terms.push_back({s.c, factor.rows, 1, to, n, 1, factor.rows});
    emit.add(s);
  }
}

// out[n] = sink.cin + sink.scale * sum over rows of y_like[R, n].
void sum_rows(Emit& emit, const Sink& sink, const Operand& y, int64_t rows, int64_t n) {
  ContractArgs args;
  args.m = 1, args.n = n;
  args.c = sink.out, args.c_row = n;
  args.cin = sink.cin, args.cin_row = n;
  args.scale = sink.scale;
  args.terms = {{Operand{kScalars}, 0, 0, y, n, 1, rows}};
  emit.add(args);
}

// W_bar, or its tangent, is the sum over rows of d[row, :]^T x[row, :], over all `products`.
struct OuterProduct {
  Operand d, x;
};

void add_weight_bar(Emit& emit, const Node& node, const LinearSizes& s,
                    const std::vector<OuterProduct>& products) {
  if (!emit.wants_param_bar(node, kWeight)) return;
  if (emit.factored(node, kWeight)) {
    for (const OuterProduct& p : products) emit.add_factor(node, kWeight, p.d, p.x, s.rows);
    return;
  }
  const Sink sink = emit.param_bar(node, kWeight);
  ContractArgs args;
  args.m = s.out, args.n = s.in;
  args.c = sink.out, args.c_row = s.in;
  args.cin = sink.cin, args.cin_row = s.in;
  args.scale = sink.scale;
  for (const OuterProduct& p : products)
    args.terms.push_back({p.d, 1, s.out, p.x, s.in, 1, s.rows});
  emit.add(std::move(args));
}

// Adds `terms` to what `sink` holds; writes nothing when there are none and cin is already there.
void contract_rows(Emit& emit, const Sink& sink, const LinearSizes& s, int64_t n,
                   std::vector<ContractTerm> terms) {
  if (terms.empty() && sink.cin == sink.out) return;
  ContractArgs args;
  args.m = s.rows, args.n = n;
  args.c = sink.out, args.c_row = n;
  args.cin = sink.cin, args.cin_row = n;
  args.terms = std::move(terms);
  emit.add(args);
}

// out[R, O] = b + own terms + terms with a shared weight. The two are apart because a contraction
// with nothing of a task's own takes the rows of all tasks at once; the bias, which may be a task's
// own, goes with the former when there are any.
void sum_apart(Emit& emit, const Sink& bias, const LinearSizes& s, std::vector<ContractTerm> shared,
               std::vector<ContractTerm> own) {
  ContractArgs args;
  args.m = s.rows, args.n = s.out;
  args.c = bias.out, args.c_row = s.out;
  args.cin = bias.cin;
  const bool split = !own.empty() && !shared.empty();
  args.terms = own.empty() ? std::move(shared) : std::move(own);
  emit.add(std::move(args));
  if (split) contract_rows(emit, {bias.out, bias.out}, s, s.out, std::move(shared));
}

}  // namespace

void Linear::check(const Node& node, const std::vector<TensorSpec>& tensors) const {
  const Shape& in = node.in_shapes[0];
  if (!node.has_param(0) || tensors[node.params[0]].shape.size() != 2)
    throw ShapeError(message("layer `", node.name, "`: linear needs a weight of 2 dimensions"));
  const Shape& weight = tensors[node.params[0]].shape;
  if (in.empty() || in.back() != weight[1])
    throw ShapeError(message("layer `", node.name, "`: linear needs x with ", weight[1],
                             " features in its last dimension, got ", in.empty() ? 0 : in.back()));
  if (node.has_param(1) && tensors[node.params[1]].shape != Shape{weight[0]})
    throw ShapeError(message("layer `", node.name, "`: bias must have ", weight[0], " numbers"));
  Shape out = in;
  out.back() = weight[0];
  if (node.shape != out)
    throw ShapeError(message("layer `", node.name, "`: linear gives ", weight[0],
                             " features for each of its input's rows, got another shape"));
}

void Linear::forward(Emit& emit, const Node& node) const {
  const LinearSizes s = linear_sizes(emit, node);
  const Operand x = emit.x(node, 0);
  Sink sink{emit.y(node), node.has_param(1) ? emit.param(node, 1) : Operand{}};
  std::vector<ContractTerm> own;
  if (emit.factored(node, 0))
    factor_terms(emit, emit.update_factors(node, 0), true, x, s.rows, s.in, s.out, -1, own);
  sum_apart(emit, sink, s, {{x, s.in, 1, emit.param_t(node, 0), s.out, 1, s.in}}, std::move(own));
}

void Linear::backward(Emit& emit, const Node& node) const {
  const LinearSizes s = linear_sizes(emit, node);
  const Operand x = emit.x(node, 0), d = emit.y_bar(node);
  if (emit.wants_x_bar(node, 0)) {
    Sink sink = emit.x_bar(node, 0);
    contract_rows(emit, sink, s, s.in, {{d, s.out, 1, emit.param(node, 0), s.in, 1, s.out}});
    if (emit.factored(node, 0)) {
      std::vector<ContractTerm> terms;
      factor_terms(emit, emit.update_factors(node, 0), false, d, s.rows, s.in, s.out, -1, terms);
      contract_rows(emit, {sink.out, sink.out}, s, s.in, terms);
    }
  }
  add_weight_bar(emit, node, s, {{d, x}});
  if (emit.wants_param_bar(node, 1)) sum_rows(emit, emit.param_bar(node, 1), d, s.rows, s.out);
}

void Linear::forward_jvp(Emit& emit, const Node& node) const {
  const LinearSizes s = linear_sizes(emit, node);
  const Operand x = emit.x(node, 0), x_dot = emit.x_dot(node, 0), y_dot = emit.y_dot(node);
  const bool x_moves = emit.x_moves(node, 0);
  std::vector<ContractTerm> shared, own;
  if (x_moves) shared.push_back({x_dot, s.in, 1, emit.param_t(node, 0), s.out, 1, s.in});
  if (emit.factored(node, 0)) {
    if (x_moves)
      factor_terms(emit, emit.update_factors(node, 0), true, x_dot, s.rows, s.in, s.out, -1, own);
    factor_terms(emit, emit.direction_factors(node, 0), true, x, s.rows, s.in, s.out,
                 emit.neg_rate(), own);
  } else if (emit.param_moves(node, 0)) {
    shared.push_back({x, s.in, 1, emit.param_dot_t(node, 0), s.out, 1, s.in});
  }
  const Operand u_b = emit.param_moves(node, 1) ? emit.param_dot(node, 1) : Operand{};
  sum_apart(emit, {y_dot, u_b}, s, std::move(shared), std::move(own));
}

void Linear::backward_jvp(Emit& emit, const Node& node) const {
  const LinearSizes s = linear_sizes(emit, node);
  const Operand x = emit.x(node, 0), x_dot = emit.x_dot(node, 0);
  const Operand d = emit.y_bar(node), d_dot = emit.y_bar_dot(node);
  const bool factored = emit.factored(node, 0);
  if (emit.wants_x_bar(node, 0)) {
    Sink sink = emit.x_bar_dot(node, 0);
    std::vector<ContractTerm> terms{{d_dot, s.out, 1, emit.param(node, 0), s.in, 1, s.out}};
    if (!factored && emit.param_moves(node, 0))
      terms.push_back({d, s.out, 1, emit.param_dot(node, 0), s.in, 1, s.out});
    contract_rows(emit, sink, s, s.in, terms);
    if (factored) {
      std::vector<ContractTerm> own;
      factor_terms(emit, emit.update_factors(node, 0), false, d_dot, s.rows, s.in, s.out, -1, own);
      factor_terms(emit, emit.direction_factors(node, 0), false, d, s.rows, s.in, s.out,
                   emit.neg_rate(), own);
      contract_rows(emit, {sink.out, sink.out}, s, s.in, own);
    }
  }
  if (emit.x_moves(node, 0))
    add_weight_bar(emit, node, s, {{d_dot, x}, {d, x_dot}});
  else
    add_weight_bar(emit, node, s, {{d_dot, x}});
  if (emit.wants_param_bar(node, 1)) sum_rows(emit, emit.param_bar(node, 1), d_dot, s.rows, s.out);
}

}  // namespace fastmaml
