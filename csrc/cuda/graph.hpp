// One plan's launches as a graph, built once and replayed with new pointers and scalars.
//
// All a launch knows of the call stands in the workspace, written there by the graph's first
// kernels; so only their arguments change from call to call, and only where they differ.
#pragma once

#include <cstring>
#include <list>
#include <utility>
#include <vector>

#include "cuda/kernels.hpp"
#include "cuda/launcher.hpp"

namespace fastmaml {

// Words that a call needs at a place on the device.
struct Poke {
  uint64_t* to;
  Words words;
};

class GraphLauncher final : public Launcher {
 public:
  explicit GraphLauncher(cudaGraph_t graph) : graph_(graph) {}
  cudaGraphNode_t last() const { return last_; }

 protected:
  void add(const void* kernel, LaunchSize size, size_t shared_bytes, void** arguments) override {
    const cudaKernelNodeParams params = node_params(kernel, size, shared_bytes, arguments);
    cudaGraphNode_t node;
    check_cuda(
        cudaGraphAddKernelNode(&node, graph_, last_ ? &last_ : nullptr, last_ ? 1 : 0, &params),
        "adding a launch to a graph");
    last_ = node;
  }

 private:
  cudaGraph_t graph_;
  cudaGraphNode_t last_ = nullptr;
};

// Lets this thread make calls, for a scope, that a capture under way does not allow.
class CaptureRelaxed {
 public:
  CaptureRelaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~CaptureRelaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  CaptureRelaxed(const CaptureRelaxed&) = delete;
  CaptureRelaxed& operator=(const CaptureRelaxed&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// A graph ready to be launched.
class Replay {
 public:
  // What its launches have been fixed to.
  struct Key {
    int device;
    int64_t tasks;
    int lanes, team;
    const void *workspace, *tables;
    bool operator==(const Key&) const = default;
  };

  // `launch_all(launcher)` adds everything that comes after the pokes.
  template <class LaunchAll>
  Replay(const Key& key, std::vector<Poke> pokes, LaunchAll&& launch_all)
      : key_(key), pokes_(std::move(pokes)) {
    check_cuda(cudaGraphCreate(&own_.graph, 0), "making a graph");
    GraphLauncher launcher(own_.graph);
    for (const Poke& poke : pokes_) {
      launcher.launch(write_words_kernel(), {1, 1}, 0, poke.to, poke.words);
      nodes_.push_back(launcher.last());
    }
    launch_all(launcher);
    check_cuda(cudaGraphInstantiate(&own_.exec, own_.graph, 0), "instantiating a graph");
  }

  const Key& key() const { return key_; }

  void launch(const std::vector<Poke>& pokes, void* stream) {
    for (size_t i = 0; i < pokes.size(); ++i) {
      if (std::memcmp(&pokes_[i], &pokes[i], sizeof(Poke)) == 0) continue;
      Poke poke = pokes[i];
      void* arguments[] = {&poke.to, &poke.words};
      const cudaKernelNodeParams params = node_params(write_words_kernel(), {1, 1}, 0, arguments);
      check_cuda(cudaGraphExecKernelNodeSetParams(own_.exec, nodes_[i], &params),
                 "giving a graph new pointers");
      pokes_[i] = poke;
    }
    check_cuda(cudaGraphLaunch(own_.exec, static_cast<cudaStream_t>(stream)), "launching a graph");
  }

 private:
  const Key key_;
  std::vector<Poke> pokes_;
  std::vector<cudaGraphNode_t> nodes_;
  // A member, so that they go where the constructor fails half-way.
  struct Handles {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    Handles() = default;
    ~Handles() {
      // A plan may go while its thread captures a graph of another's, which destroying one would
      // invalidate.
      const CaptureRelaxed relaxed;
      if (exec) cudaGraphExecDestroy(exec);
      if (graph) cudaGraphDestroy(graph);
    }
    Handles(const Handles&) = delete;
    Handles& operator=(const Handles&) = delete;
  } own_;
};

// The graphs of one plan, the last used first. Not for several threads at once.
class Replays {
 public:
  template <class LaunchAll>
  Replay& find(const Replay::Key& key, const std::vector<Poke>& pokes, LaunchAll&& launch_all) {
    for (auto it = replays_.begin(); it != replays_.end(); ++it)
      if (it->key() == key) {
        replays_.splice(replays_.begin(), replays_, it);
        return replays_.front();
      }
    replays_.emplace_front(key, pokes, launch_all);
    if (replays_.size() > kMost) replays_.pop_back();
    return replays_.front();
  }

 private:
  static constexpr size_t kMost = 8;  // a graph of a few hundred launches takes some 100 KiB
  std::list<Replay> replays_;
};

}  // namespace fastmaml
