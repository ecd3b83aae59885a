// The part of the CUDA runtime that the engine uses, on the host: device code runs on fibers, and
// streams, graphs and devices are a recording fake (simt/runtime.cpp).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "simt/device.hpp"

#define FASTMAML_SIMT 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __grid_constant__

// Read like the real ones, and are no macros: the runtime has members of the same names.
namespace simt {
template <Index Thread::* Which, unsigned Index::* Side>
struct Coordinate {
  SIMT_HOST_SIDE operator unsigned() const { return self().*Which.*Side; }
};
template <Index Thread::* Which>
struct Coordinates {
  Coordinate<Which, &Index::x> x;
  Coordinate<Which, &Index::y> y;
  Coordinate<Which, &Index::z> z;
};
}  // namespace simt
inline constexpr simt::Coordinates<&simt::Thread::thread> threadIdx{};
inline constexpr simt::Coordinates<&simt::Thread::block> blockIdx{};
inline constexpr simt::Coordinates<&simt::Thread::block_size> blockDim{};
inline constexpr simt::Coordinates<&simt::Thread::grid_size> gridDim{};

// --- device side ---------------------------------------------------------------------------------

inline void __syncthreads(simt::Where where = simt::Where::current()) {
  simt::block_barrier(where);
}
inline void __syncwarp(unsigned mask = ~0u, simt::Where where = simt::Where::current()) {
  simt::warp_meet(mask, nullptr, 0, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int apart, int = 32,
                  simt::Where where = simt::Where::current()) {
  return simt::shuffle(mask, value, simt::lane() ^ apart, where);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int = 32,
              simt::Where where = simt::Where::current()) {
  return simt::shuffle(mask, value, from, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by, int = 32,
                   simt::Where where = simt::Where::current()) {
  const int from = simt::lane() + by;
  return simt::shuffle(mask, value, from < 32 ? from : simt::lane(), where);
}
inline void __threadfence() { simt::fence(); }
inline unsigned atomicAdd(unsigned* to, unsigned value) {
  return std::atomic_ref<unsigned>(*to).fetch_add(value);
}

// --- host side -----------------------------------------------------------------------------------

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2,
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

struct SimtStream;
struct SimtGraph;
struct SimtGraphNode;
struct SimtGraphExec;
using cudaStream_t = SimtStream*;
using cudaGraph_t = SimtGraph*;
using cudaGraphNode_t = SimtGraphNode*;
using cudaGraphExec_t = SimtGraphExec*;

struct cudaKernelNodeParams {
  void* func;
  dim3 gridDim;
  dim3 blockDim;
  unsigned sharedMemBytes;
  void** kernelParams;
  void** extra;
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value);
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t stream);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* dependencies, size_t count,
                                   const cudaKernelNodeParams* params);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* params);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
