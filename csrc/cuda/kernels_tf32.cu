// The kernels of plans with tf32: linear layers and convolutions, whose tiles run on tensor cores.
#include "cuda/instruction.cuh"
#include "cuda/kernels.hpp"
#include "cuda/known.cuh"
#include "cuda/lower.hpp"
#include "cuda/tile_tf32.cuh"
#include "ops/contract/contract_cuda.cuh"
#include "ops/conv2d/conv2d_cuda.cuh"

namespace fastmaml {
namespace device {
namespace {

// Puts the tf32 kernel of a kind into its place.
template <class Kind>
void replace(DeviceKernelTable& table) {
  using A = DeviceArgs<Kind>;
  DeviceKernel& kernel = table.of[Args(Kind{}).index()];
  kernel.function = known(&instruction_kernel<float, A, Tf32Tiles>);
}

DeviceKernelTable make_tf32_table() {
  DeviceKernelTable table = device_kernels(Dtype::f32);
  replace<ContractArgs>(table), replace<ConvArgs>(table);
  return table;
}

}  // namespace
}  // namespace device

const DeviceKernelTable& device_kernels_tf32() {
  static const DeviceKernelTable table = device::make_tf32_table();
  return table;
}

}  // namespace fastmaml
