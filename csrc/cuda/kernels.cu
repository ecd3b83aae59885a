// The choice by dtype, and the kernel that is no instruction's.
//
// The others stand in translation units of their own, by dtype and with the resident kernels apart,
// so that a build has work for several processors.
#include "cuda/device.cuh"
#include "cuda/kernels.hpp"
#include "cuda/known.cuh"
#include "cuda/resident.hpp"

namespace fastmaml {
namespace device {
namespace {

__global__ void __launch_bounds__(kThreads) write_words(uint64_t* to, Words words) {
  for (int64_t i = threadIdx.x; i < words.count; i += kThreads)
    to[i] = words.from ? words.from[i] : words.of[i];
}

}  // namespace
}  // namespace device

const DeviceKernelTable& device_kernels(Dtype dtype) {
  return dtype == Dtype::f32 ? kernels_of<float>() : kernels_of<double>();
}

const void* resident_kernel(Dtype dtype) {
  return dtype == Dtype::f32 ? resident_of<float>() : resident_of<double>();
}

const void* write_words_kernel() {
  static const void* const kernel = device::known(&device::write_words);
  return kernel;
}

}  // namespace fastmaml
