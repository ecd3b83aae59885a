#include "ops/add/add.hpp"

#include "core/error.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

// out = cin + b, number by number; a copy where cin is absent.
void add_numbers(Emit& emit, const Node& node, const Operand& out, const Operand& cin,
                 const Operand& b) {
  const int64_t n = emit.rows() * numel(node.shape);
  ContractArgs args;
  args.m = 1, args.n = n;
  args.c = out, args.c_row = n;
  args.cin = cin, args.cin_row = n;
  args.terms = {{Operand{kScalars}, 0, 0, b, n, 1, 1}};
  emit.add(std::move(args));
}

}  // namespace

void Add::check(const Node& node, const std::vector<TensorSpec>&) const {
  if (node.in_shapes.size() != 2 || node.in_shapes[0] != node.shape ||
      node.in_shapes[1] != node.shape)
    throw ShapeError(message("layer `", node.name,
                             "`: add needs two inputs of one shape (broadcasting is not fused), "
                             "got ",
                             node.in_shapes.size(), " inputs with ",
                             node.in_shapes.empty() ? 0 : numel(node.in_shapes.front()), " and ",
                             node.in_shapes.empty() ? 0 : numel(node.in_shapes.back()),
                             " numbers a row; use backend=\"reference\""));
}

void Add::apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
                const Operand& y) const {
  if (x[0] && x[1])
    add_numbers(emit, node, y, x[0], x[1]);
  else
    add_numbers(emit, node, y, {}, x[0] ? x[0] : x[1]);
}

void Add::transposed(Emit& emit, const Node& node, int, const Operand& bar, const Sink& to) const {
  add_numbers(emit, node, to.out, to.cin, bar);
}

}  // namespace fastmaml
