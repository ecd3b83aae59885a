// Where launches go: into a stream now, or into a graph to be replayed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/error.hpp"
#include "cuda/call.hpp"
#include "cuda/kernels.hpp"

namespace fastmaml {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw BackendError(message("CUDA: ", what, " failed: ", cudaGetErrorString(error)));
}

struct LaunchSize {
  unsigned x = 1, y = 1;  // blocks
};

inline cudaKernelNodeParams node_params(const void* kernel, LaunchSize size, size_t shared_bytes,
                                        void** arguments) {
  cudaKernelNodeParams params{};
  params.func = const_cast<void*>(kernel);
  params.gridDim = dim3(size.x, size.y), params.blockDim = dim3(kThreads);
  params.sharedMemBytes = static_cast<unsigned>(shared_bytes);
  params.kernelParams = arguments;
  return params;
}

class Launcher {
 public:
  virtual ~Launcher() = default;
  template <class... A>
  void launch(const void* kernel, LaunchSize size, int64_t shared_bytes, A... arguments) {
    void* pointers[] = {&arguments...};
    add(kernel, size, static_cast<size_t>(shared_bytes), pointers);
  }
  // An instruction's, see DeviceKernel.
  void launch(const DeviceKernel& kernel, LaunchSize size, const void* args, DeviceCall call,
              bool shared) {
    void* pointers[] = {const_cast<void*>(args), &call, &shared};
    add(kernel.function, size, static_cast<size_t>(kernel.shared_bytes), pointers);
  }

 protected:
  virtual void add(const void* kernel, LaunchSize size, size_t shared_bytes, void** arguments) = 0;
};

class StreamLauncher final : public Launcher {
 public:
  explicit StreamLauncher(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

 protected:
  void add(const void* kernel, LaunchSize size, size_t shared_bytes, void** arguments) override {
    check_cuda(cudaLaunchKernel(kernel, dim3(size.x, size.y), dim3(kThreads), arguments,
                                shared_bytes, stream_),
               "a launch");
  }

 private:
  cudaStream_t stream_;
};

// Makes a device current for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check_cuda(cudaGetDevice(&before_), "finding the current device");
    if (device != before_) check_cuda(cudaSetDevice(device), "choosing the device");
    changed_ = device != before_;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

inline int multiprocessors(int device) {
  int count = 1;
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "asking for the multiprocessors");
  return count;
}

}  // namespace fastmaml
