// The runtime API's fake: one device, whose streams run what they are given at once, and graphs
// that remember their launches.
#include "simt/runtime.hpp"

#include <cuda_runtime.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "simt/grid.hpp"
#include "simt/kernel.hpp"

// A launch whose arguments are copies.
struct SimtGraphNode {
  const void* function = nullptr;
  dim3 grid, block;
  size_t shared_bytes = 0;
  std::vector<std::vector<char>> arguments;
};
struct SimtGraph {
  std::vector<std::unique_ptr<SimtGraphNode>> nodes;
};
struct SimtGraphExec {
  std::map<const SimtGraphNode*, size_t> index;
  std::vector<SimtGraphNode> nodes;
};

namespace simt {
namespace {

std::map<const void*, KernelType>& kernels() {
  static std::map<const void*, KernelType> known;
  return known;
}
std::mutex g_mutex;
std::string g_failure;
Counts g_counts;
bool g_capturing = false, g_fails = false;

bool fill(SimtGraphNode& node, const cudaKernelNodeParams& params) {
  const KernelType* type = find_kernel(params.func);
  if (!type) return false;
  node.function = params.func;
  node.grid = params.gridDim, node.block = params.blockDim;
  node.shared_bytes = params.sharedMemBytes;
  node.arguments.clear();
  for (size_t i = 0; i < type->sizes.size(); ++i) {
    const char* from = static_cast<const char*>(params.kernelParams[i]);
    node.arguments.emplace_back(from, from + type->sizes[i]);
  }
  return true;
}

cudaError_t run(const void* function, dim3 grid, dim3 block, void** arguments, size_t bytes) {
  if (std::exchange(g_fails, false)) return cudaErrorMemoryAllocation;
  const KernelType* type = find_kernel(function);
  if (!type) return cudaErrorInvalidValue;
  if (grid.x == 0 || grid.y == 0 || grid.y > 65535 || grid.z != 1 || bytes > kMostSharedBytes ||
      block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1)
    return cudaErrorInvalidConfiguration;
  try {
    run_grid({grid.x, grid.y, 1}, {block.x, block.y, block.z}, bytes,
             [&] { type->invoke(function, arguments); });
  } catch (const std::exception& error) {
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_failure = error.what();
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace

void add_kernel(const void* function, KernelType type) {
  const std::lock_guard<std::mutex> lock(g_mutex);
  kernels()[function] = std::move(type);
}
const KernelType* find_kernel(const void* function) {
  const std::lock_guard<std::mutex> lock(g_mutex);
  const auto found = kernels().find(function);
  return found == kernels().end() ? nullptr : &found->second;
}

Counts counts() { return g_counts; }
void set_capturing(bool on) { g_capturing = on; }
void fail_next_launch() { g_fails = true; }

}  // namespace simt

using simt::g_counts;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchFailure:
      return simt::g_failure.c_str();
    case cudaErrorInvalidValue:
      break;
  }
  return "invalid argument";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  *value = attribute == cudaDevAttrMultiProcessorCount ? simt::kMultiprocessors
                                                       : static_cast<int>(simt::kMostSharedBytes);
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute, int value) {
  if (!simt::find_kernel(function)) return cudaErrorInvalidValue;
  return value <= static_cast<int>(simt::kMostSharedBytes) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t) {
  ++g_counts.launches;
  return simt::run(function, grid, block, arguments, shared_bytes);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  static thread_local cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(current, *mode);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = simt::g_capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  return *graph = new SimtGraph, cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* dependencies, size_t count,
                                   const cudaKernelNodeParams* params) {
  // The engine's graphs are chains: what is added waits for what was added last.
  const bool chained = graph->nodes.empty()
                           ? count == 0
                           : count == 1 && dependencies[0] == graph->nodes.back().get();
  auto made = std::make_unique<SimtGraphNode>();
  if (!chained || !simt::fill(*made, *params)) return cudaErrorInvalidValue;
  *node = made.get();
  graph->nodes.push_back(std::move(made));
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new SimtGraphExec;
  for (const auto& node : graph->nodes) {
    (*exec)->index[node.get()] = (*exec)->nodes.size();
    (*exec)->nodes.push_back(*node);
  }
  ++g_counts.graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* params) {
  const auto found = exec->index.find(node);
  if (found == exec->index.end()) return cudaErrorInvalidValue;
  SimtGraphNode& own = exec->nodes[found->second];
  if (own.function != params->func || !simt::fill(own, *params)) return cudaErrorInvalidValue;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  ++g_counts.graph_launches;
  for (SimtGraphNode& node : exec->nodes) {
    std::vector<void*> arguments;
    for (std::vector<char>& argument : node.arguments) arguments.push_back(argument.data());
    const cudaError_t error =
        simt::run(node.function, node.grid, node.block, arguments.data(), node.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
