#include "plan/layouts.hpp"

#include "core/error.hpp"

namespace fastmaml {

Layouts::Layouts(const Network& network) : packing_(network.tensors.size()) {
  std::vector<bool> read(packing_.size(), false);
  for (const Node& node : network.nodes)
    for (size_t i = 0; i < node.params.size(); ++i) {
      const int tensor = node.params[i];
      if (tensor < 0) continue;
      const TensorSpec& spec = network.tensors[tensor];
      const Packing wanted = i == kWeight ? node.op->packing(node, spec.shape) : Packing{};
      Packing& known = packing_[tensor];
      if (read[tensor] && known.groups != wanted.groups)
        throw UnsupportedModelError(message(
            "layer `", node.name, "`: `", spec.name, "` is shared between ",
            known && wanted
                ? message("convolutions of ", known.groups, " and ", wanted.groups, " groups")
                : std::string("a convolution and another kind of layer")));
      known = wanted, read[tensor] = true;
    }
}

PermuteArgs Layouts::pack(int tensor, bool transposed) const {
  const Packing& p = packing_[tensor];
  PermuteArgs args;
  args.size[0] = p.groups, args.stride[0] = p.out * p.in * p.taps;
  args.size[1] = p.taps, args.stride[1] = 1;
  args.size[2] = transposed ? p.out : p.in, args.stride[2] = transposed ? p.in * p.taps : p.taps;
  args.size[3] = transposed ? p.in : p.out, args.stride[3] = transposed ? p.taps : p.in * p.taps;
  return args;
}

PermuteArgs Layouts::unpack(int tensor) const {
  const Packing& p = packing_[tensor];
  PermuteArgs args;
  args.size[0] = p.groups, args.stride[0] = p.taps * p.in * p.out;
  args.size[1] = p.out, args.stride[1] = 1;
  args.size[2] = p.in, args.stride[2] = p.out;
  args.size[3] = p.taps, args.stride[3] = p.in * p.out;
  return args;
}

}  // namespace fastmaml
