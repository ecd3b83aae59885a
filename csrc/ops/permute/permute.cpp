#include "ops/permute/permute.hpp"

#include "core/error.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

// Copies the images of a pass to the other layout, or back.
void move_images(Emit& emit, const Node& node, bool back, const Operand& in, const Operand& out,
                 const Operand& cin) {
  const int64_t channels = node.shape[0], pixels = node.shape[1] * node.shape[2];
  const bool to_last = (node.attr("to_last", 1) != 0) != back;
  PermuteArgs args;
  args.in = in, args.out = out, args.cin = cin;
  args.size[1] = emit.rows(), args.stride[1] = channels * pixels;
  args.size[2] = to_last ? pixels : channels, args.stride[2] = 1;
  args.size[3] = to_last ? channels : pixels, args.stride[3] = to_last ? pixels : channels;
  emit.add(args);
}

}  // namespace

void Permute::check(const Node& node, const std::vector<TensorSpec>&) const {
  if (node.in_shapes.size() != 1 || node.in_shapes[0] != node.shape || node.shape.size() != 3)
    throw InternalError(message("layer `", node.name, "`: only images change their layout"));
}

void Permute::apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
                    const Operand& y) const {
  move_images(emit, node, false, x[0], y, {});
}

void Permute::transposed(Emit& emit, const Node& node, int, const Operand& bar,
                         const Sink& to) const {
  move_images(emit, node, true, bar, to.out, to.cin);
}

}  // namespace fastmaml
