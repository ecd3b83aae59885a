// The kernels of plans with tf32: linear layers and convolutions, whose tiles run on tensor cores.
#include "cuda/device.cuh"
#include "cuda/kernels.hpp"
#include "cuda/lower.hpp"
#include "cuda/tile_tf32.cuh"
#include "ops/contract/contract_cuda.cuh"
#include "ops/conv2d/conv2d_cuda.cuh"

#if defined(FASTMAML_SIMT)
#include "simt/kernel.hpp"
#endif

namespace fastmaml {
namespace device {
namespace {

// As instruction_kernel of cuda/kernels.cu.
template <class A>
__global__ void __launch_bounds__(kThreads, 2)
    tf32_kernel(const char* args, DeviceCall call, bool shared) {
  const Block block{call,      call.base[kTransient], call.base[kShared],     false, blockIdx.x,
                    gridDim.x, dynamic_shared(),      shared ? call.tasks : 1};
  const int64_t tasks = shared ? 1 : call.tasks;
  for (int64_t task = blockIdx.y; task < tasks; task += gridDim.y) {
    run_pass<float, Tf32Tiles>(*reinterpret_cast<const A*>(args), block, task);
    __syncthreads();
  }
}

// Puts the tf32 kernel of a kind into its place.
template <class Kind>
void replace(DeviceKernelTable& table) {
  using A = DeviceArgs<Kind>;
  DeviceKernel& kernel = table.of[Args(Kind{}).index()];
#if defined(FASTMAML_SIMT)
  kernel.function = simt::known_kernel(&tf32_kernel<A>);
#else
  kernel.function = reinterpret_cast<const void*>(&tf32_kernel<A>);
#endif
  kernel.shared_bytes = kTf32Bytes;
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
