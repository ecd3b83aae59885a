// The kernels: one for each alternative of Args and dtype (add an op: one include here).
#include <utility>

#include "cuda/device.cuh"
#include "cuda/kernels.hpp"
#include "cuda/lower.hpp"
#include "ops/batch_norm/batch_norm_cuda.cuh"
#include "ops/bce_with_logits/bce_with_logits_cuda.cuh"
#include "ops/contract/contract_cuda.cuh"
#include "ops/conv2d/conv2d_cuda.cuh"
#include "ops/cross_entropy/cross_entropy_cuda.cuh"
#include "ops/group_norm/group_norm_cuda.cuh"
#include "ops/mse/mse_cuda.cuh"
#include "ops/patches/patches_cuda.cuh"
#include "ops/permute/permute_cuda.cuh"
#include "ops/pointwise/pointwise_cuda.cuh"
#include "ops/pool2d/pool2d_cuda.cuh"
#include "ops/stem/stem_cuda.cuh"
#include "ops/taps/taps_cuda.cuh"
#include "ops/transpose/transpose_cuda.cuh"

#if defined(FASTMAML_SIMT)
#include "simt/kernel.hpp"
#endif

#include "cuda/resident.cuh"

namespace fastmaml {
namespace device {
namespace {

// Blocks that a multiprocessor must be able to hold: ptxas takes all registers it may otherwise.
template <class T>
constexpr int kBlocksHeld = sizeof(T) == sizeof(float) ? 2 : 1;

// Grid: team x tasks. Instructions whose outputs all tasks share have one team.
template <class T, class A>
__global__ void __launch_bounds__(kThreads, kBlocksHeld<T>)
    instruction_kernel(const char* args, DeviceCall call, bool shared) {
  const Block block{call,      call.base[kTransient], call.base[kShared],     false, blockIdx.x,
                    gridDim.x, dynamic_shared(),      shared ? call.tasks : 1};
  const int64_t tasks = shared ? 1 : call.tasks;
  for (int64_t task = blockIdx.y; task < tasks; task += gridDim.y) {
    run_pass<T>(*reinterpret_cast<const A*>(args), block, task);
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads) write_words(uint64_t* to, Words words) {
  for (int64_t i = threadIdx.x; i < words.count; i += kThreads)
    to[i] = words.from ? words.from[i] : words.of[i];
}

template <class... A>
const void* known(void (*function)(A...)) {
#if defined(FASTMAML_SIMT)
  return simt::known_kernel(function);
#else
  return reinterpret_cast<const void*>(function);
#endif
}

template <class T, class A>
DeviceKernel entry() {
  return {known(&instruction_kernel<T, A>), kInstructionBytes<T>,
          [](const void* args) { return units(*static_cast<const A*>(args)); }};
}

template <class T, size_t... I>
DeviceKernelTable make_table(std::index_sequence<I...>) {
  return {{entry<T, DeviceArgs<std::variant_alternative_t<I, Args>>>()...}};
}

}  // namespace
}  // namespace device

const DeviceKernelTable& device_kernels(Dtype dtype) {
  constexpr auto all = std::make_index_sequence<std::variant_size_v<Args>>{};
  static const DeviceKernelTable f32 = device::make_table<float>(all);
  static const DeviceKernelTable f64 = device::make_table<double>(all);
  return dtype == Dtype::f32 ? f32 : f64;
}

const void* resident_kernel(Dtype dtype) {
  static const void* const f32 = device::known(&device::resident<float>);
  static const void* const f64 = device::known(&device::resident<double>);
  return dtype == Dtype::f32 ? f32 : f64;
}

const void* write_words_kernel() {
  static const void* const kernel = device::known(&device::write_words);
  return kernel;
}

}  // namespace fastmaml
