#include "ops/concat/concat.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

// y as a matrix whose columns are split between the inputs.
struct Parts {
  int64_t rows, columns;
  std::vector<int64_t> begin, width;
};

Parts parts(const Emit& emit, const Node& node) {
  const bool image = node.shape.size() == 3;
  const int64_t pixels = image ? node.shape[1] * node.shape[2] : 1;
  Parts p{emit.rows() * pixels, 0, {}, {}};
  for (const Shape& shape : node.in_shapes) {
    p.begin.push_back(p.columns);
    p.width.push_back(numel(shape) / pixels);
    p.columns += p.width.back();
  }
  return p;
}

// Puts x, or 0 where it is absent, into part i of y.
void put(Emit& emit, const Parts& p, size_t i, const Operand& x, const Operand& y) {
  ContractArgs args;
  args.m = p.rows, args.n = p.width[i];
  args.c = y.at(p.begin[i]), args.c_row = p.columns;
  args.cin = x, args.cin_row = p.width[i];
  emit.add(std::move(args));
}

// Adds part i of y to the sink.
void take(Emit& emit, const Parts& p, size_t i, const Operand& y, const Sink& sink) {
  PermuteArgs args;
  args.in = y.at(p.begin[i]), args.out = sink.out, args.cin = sink.cin;
  args.size[2] = p.rows, args.stride[2] = p.columns;
  args.size[3] = p.width[i], args.stride[3] = 1;
  emit.add(args);
}

}  // namespace

void Concat::check(const Node& node, const std::vector<TensorSpec>&) const {
  int64_t first = 0;
  bool fits = !node.in_shapes.empty() && !node.shape.empty();
  for (const Shape& shape : node.in_shapes) {
    fits = fits && shape.size() == node.shape.size() &&
           std::equal(shape.begin() + 1, shape.end(), node.shape.begin() + 1);
    if (fits) first += shape[0];
  }
  if (!fits || first != node.shape[0])
    throw ShapeError(message("layer `", node.name, "`: concat needs inputs that differ in their ",
                             "first dimension alone and sum up to ",
                             node.shape.empty() ? 0 : node.shape[0], " there, got ", first,
                             "; describe the network again"));
}

void Concat::apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
                   const Operand& y) const {
  const Parts p = parts(emit, node);
  for (size_t i = 0; i < p.width.size(); ++i) put(emit, p, i, x[i], y);
}

void Concat::transposed(Emit& emit, const Node& node, int i, const Operand& bar,
                        const Sink& to) const {
  take(emit, parts(emit, node), static_cast<size_t>(i), bar, to);
}

}  // namespace fastmaml
