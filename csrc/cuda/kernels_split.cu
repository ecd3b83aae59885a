// The kernels of deep sums: linear layers and convolutions of float.
#include "cuda/instruction.cuh"
#include "cuda/kernels.hpp"
#include "cuda/known.cuh"
#include "cuda/lower.hpp"
#include "ops/contract/contract_cuda.cuh"
#include "ops/conv2d/conv2d_cuda.cuh"

namespace fastmaml {
namespace device {
namespace {

template <class Kind, DepthSplit split>
void add(DeviceKernelTable& table) {
  using A = DeviceArgs<Kind>;
  const size_t kind = Args(Kind{}).index();
  table.of[kind] = device_kernels(Dtype::f32).of[kind];
  table.of[kind].function = known(&instruction_kernel<float, A, SplitTiles<split>>);
}

template <DepthSplit split>
DeviceKernelTable make_split_table() {
  DeviceKernelTable table;
  add<ConvArgs, split>(table);
  if constexpr (split != DepthSplit::weights) add<ContractArgs, split>(table);
  return table;
}

}  // namespace
}  // namespace device

const DeviceKernelTable& device_kernels_split(DepthSplit split) {
  static const DeviceKernelTable high = device::make_split_table<DepthSplit::high>();
  static const DeviceKernelTable narrow = device::make_split_table<DepthSplit::narrow>();
  static const DeviceKernelTable others = device::make_split_table<DepthSplit::others>();
  static const DeviceKernelTable weights = device::make_split_table<DepthSplit::weights>();
  switch (split) {
    case DepthSplit::high:
      return high;
    case DepthSplit::narrow:
      return narrow;
    case DepthSplit::weights:
      return weights;
    case DepthSplit::none:
    case DepthSplit::others:
      break;
  }
  return others;
}

}  // namespace fastmaml
