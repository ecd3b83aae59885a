#include "ops/patches/patches.hpp"

#include "plan/emit.hpp"

namespace fastmaml {

Window patch_window(const Node& node) {
  Node conv = node;
  conv.in_shapes.resize(1);
  conv.shape = {0, static_cast<int64_t>(node.attr("conv_h", 1)),
                static_cast<int64_t>(node.attr("conv_w", 1))};
  return window_of(conv);
}

void Patches::forward(Emit& emit, const Node& node) const {
  PatchArgs args;
  args.window = patch_window(node);
  args.stencil = emit.gathered(args.window);
  args.images = emit.rows(), args.channels = node.in_shapes[0][0];
  args.x = emit.x(node, 0);
  args.out = emit.y_of_set(node, moments_numel(args.stencil->taps * args.channels));
  emit.add(std::move(args));
}

}  // namespace fastmaml
