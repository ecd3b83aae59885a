// The fake runtime against what the engine relies on: graphs, captures, the limits of a launch.
#include "simt/runtime.hpp"

#include <cuda_runtime.h>

#include "check.hpp"
#include "core/error.hpp"
#include "planted.hpp"
#include "simt/kernel.hpp"
#include "simt/watch.hpp"

namespace fastmaml::test {
namespace {

std::vector<std::string> g_failures;

void append(int* log, int value) {
  if (threadIdx.x == 0) log[++log[0]] = value;
}
void other(int* log) { log[0] = 0; }

const void* appender() {
  static const void* const kernel = simt::known_kernel(&append);
  return kernel;
}

// A chain of launches of `append`, and what they wrote: a count, then the values.
struct Chain {
  int log[16] = {};
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  std::vector<cudaGraphNode_t> nodes;

  Chain() {
    simt::allow({{"log", log, sizeof log, true}});
    cudaGraphCreate(&graph, 0);
  }
  ~Chain() {
    if (exec) cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;

  // Runs `use` on a launch of `append(log, value)`.
  template <class Use>
  cudaError_t with_launch(int value, Use&& use) {
    int* to = log;
    void* arguments[] = {&to, &value};
    cudaKernelNodeParams params{};
    params.func = const_cast<void*>(appender()), params.kernelParams = arguments;
    params.gridDim = dim3(1), params.blockDim = dim3(32);
    return use(params);
  }
  cudaError_t add(int value, const std::vector<cudaGraphNode_t>& after) {
    return with_launch(value, [&](const cudaKernelNodeParams& params) {
      cudaGraphNode_t node = nullptr;
      const cudaError_t error =
          cudaGraphAddKernelNode(&node, graph, after.data(), after.size(), &params);
      if (error == cudaSuccess) nodes.push_back(node);
      return error;
    });
  }
  cudaError_t replace(cudaGraphNode_t node, int value) {
    return with_launch(value, [&](const cudaKernelNodeParams& params) {
      return cudaGraphExecKernelNodeSetParams(exec, node, &params);
    });
  }
  std::vector<int> launch() {
    log[0] = 0;
    CHECK(cudaGraphLaunch(exec, nullptr) == cudaSuccess);
    return {log + 1, log + 1 + log[0]};
  }
};

TEST(graphs_run_their_nodes_in_order_with_the_arguments_of_when_they_were_added) {
  Chain chain;
  CHECK(chain.add(7, {}) == cudaSuccess);
  CHECK(chain.add(5, {chain.nodes[0]}) == cudaSuccess);
  CHECK(chain.add(9, {chain.nodes[1]}) == cudaSuccess);
  CHECK(chain.log[0] == 0, "a graph that is built runs nothing");
  const simt::Counts before = simt::counts();
  CHECK(cudaGraphInstantiate(&chain.exec, chain.graph, 0) == cudaSuccess);
  CHECK(chain.launch() == std::vector<int>({7, 5, 9}));
  CHECK(chain.launch() == std::vector<int>({7, 5, 9}));
  const simt::Counts after = simt::counts();
  CHECK(after.graphs == before.graphs + 1 && after.graph_launches == before.graph_launches + 2);
  CHECK(after.launches == before.launches, "a graph's launches are its own");
}

TEST(graphs_are_chains) {
  Chain chain;
  CHECK(chain.add(1, {}) == cudaSuccess);
  CHECK(chain.add(2, {}) == cudaErrorInvalidValue, "a second root");
  CHECK(chain.add(2, {chain.nodes[0]}) == cudaSuccess);
  CHECK(chain.add(3, {chain.nodes[0]}) == cudaErrorInvalidValue, "a fork");
}

TEST(replaced_arguments_hold_for_one_node_of_one_executable) {
  Chain chain;
  chain.add(1, {}), chain.add(2, {chain.nodes[0]});
  cudaGraphInstantiate(&chain.exec, chain.graph, 0);
  CHECK(chain.replace(chain.nodes[1], 8) == cudaSuccess);
  CHECK(chain.launch() == std::vector<int>({1, 8}));
  cudaGraphExecDestroy(chain.exec);
  cudaGraphInstantiate(&chain.exec, chain.graph, 0);
  CHECK(chain.launch() == std::vector<int>({1, 2}), "the graph itself is as it was");
}

TEST(nodes_of_another_graph_and_other_kernels_are_refused) {
  Chain chain, stranger;
  chain.add(1, {}), stranger.add(2, {});
  cudaGraphInstantiate(&chain.exec, chain.graph, 0);
  CHECK(chain.replace(stranger.nodes[0], 3) == cudaErrorInvalidValue);
  cudaKernelNodeParams params{};
  params.func = const_cast<void*>(simt::known_kernel(&other));
  CHECK(cudaGraphExecKernelNodeSetParams(chain.exec, chain.nodes[0], &params) ==
        cudaErrorInvalidValue);
  int unknown = 0;
  params.func = &unknown;
  cudaGraphNode_t node = nullptr;
  CHECK(cudaGraphAddKernelNode(&node, stranger.graph, &stranger.nodes[0], 1, &params) ==
        cudaErrorInvalidValue);
  simt::allow({{"log", chain.log, sizeof chain.log, true}});
  CHECK(chain.launch() == std::vector<int>({1}));
}

TEST(streams_are_captured_while_a_test_says_so) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusInvalidated;
  cudaStreamIsCapturing(nullptr, &status);
  CHECK(status == cudaStreamCaptureStatusNone);
  simt::set_capturing(true);
  cudaStreamIsCapturing(nullptr, &status);
  simt::set_capturing(false);
  CHECK(status == cudaStreamCaptureStatusActive);
  cudaStreamIsCapturing(nullptr, &status);
  CHECK(status == cudaStreamCaptureStatusNone);
}

TEST(launches_have_limits) {
  int log[4] = {}, value = 1;
  int* to = log;
  void* arguments[] = {&to, &value};
  simt::allow({{"log", log, sizeof log, true}});
  const auto launch = [&](dim3 grid, dim3 block, size_t bytes) {
    return cudaLaunchKernel(appender(), grid, block, arguments, bytes, nullptr);
  };
  CHECK(launch(dim3(1), dim3(32), simt::kMostSharedBytes) == cudaSuccess && log[0] == 1);
  CHECK(launch(dim3(1), dim3(32), simt::kMostSharedBytes + 1) == cudaErrorInvalidConfiguration);
  for (const dim3 grid : {dim3(0), dim3(1, 0), dim3(1, 65536), dim3(1, 1, 2)})
    CHECK(launch(grid, dim3(32), 0) == cudaErrorInvalidConfiguration, grid.x, " ", grid.y);
  for (const dim3 block : {dim3(0), dim3(1025), dim3(16, 2)})
    CHECK(launch(dim3(1), block, 0) == cudaErrorInvalidConfiguration, block.x, " ", block.y);
  CHECK(log[0] == 1, "a refused launch runs nothing");
  CHECK(cudaLaunchKernel(&value, dim3(1), dim3(32), arguments, 0, nullptr) ==
        cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(appender(), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(simt::kMostSharedBytes) + 1) ==
        cudaErrorInvalidValue);
}

}  // namespace

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

void fail(const char* file, int line, const std::string& text) {
  g_failures.push_back(message(file, ":", line, ": ", text));
}

std::vector<std::string> runtime_failures() {
  g_failures.clear();
  for (const Test& test : tests()) test.function();
  return g_failures;
}

}  // namespace fastmaml::test
