// The public face of the core: describe a network, compile a plan, run it on raw pointers.
//
//   NetworkSpec -> Plan(spec, settings) -> workspace_bytes(tasks, threads) -> run(call)
//
// Nothing here prints or aborts; a call allocates only what later ones of its size use again.
// Letters: T tasks, S support rows, Q query rows, K inner steps, P parameters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/poll.hpp"

namespace fastmaml {

using Shape = std::vector<int64_t>;

enum class Dtype { f32, f64 };
// What a program produces: losses, logits and the meta-gradient; losses and logits; these after 0
// to K steps; or the fast weights phi[K] of every task, without a query set.
enum class Mode { meta_step, evaluate, curve, adapt };

struct TensorSpec {
  std::string name;  // qualified name in the module
  Shape shape;
  bool adapted;  // moves in the inner loop
  bool trained;  // has a meta-gradient
};

struct NodeSpec {
  std::string op;                       // a name of ops/registry.hpp
  std::vector<int> inputs;              // value ids: 0 is the network input, node i gives i + 1
  std::vector<int> params;              // indices into NetworkSpec::tensors, -1 where absent
  std::map<std::string, double> attrs;  // numbers only
  Shape shape;                          // output shape of one row
  std::string name;                     // the layer's qualified name, for messages
};

struct NetworkSpec {
  Shape row_shape;  // shape of one row of x
  std::vector<TensorSpec> tensors;
  std::vector<NodeSpec> nodes;
  int output;     // value id of the logits
  NodeSpec loss;  // op and attrs; inputs, params and shape are ignored
};

struct Settings {
  Dtype dtype = Dtype::f32;
  Mode mode = Mode::meta_step;
  int64_t support_rows = 1;   // S
  int64_t query_rows = 1;     // Q (ignored by Mode::adapt)
  int inner_steps = 1;        // K
  bool first_order = false;   // drop the Hessian terms
  bool rate_grad = false;     // also write what gives the rates' meta-gradient
  bool recompute = false;     // the sweep makes the activations of each step again
  int factored = -1;          // linear weights: -1 chosen by cost, 0 all dense, 1 all factored
  int winograd = -1;          // convolutions that can: -1 chosen by cost, 0 none, 5 or 6 all
  bool device = false;        // for a CUDA device alone: work is cut for many small cores
  int64_t moment_bytes = -1;  // from where on a norm's input counts as large; -1: where that pays
  int64_t run_pixels = 512;   // device: of a run of a long sum over pixels
  int64_t most_bytes = 0;     // of the program while it is written; 0: any
  bool tf32 = false;          // CUDA devices, f32: products of rounded factors, see cuda/mma.cuh
};

// Whether the call gets a tensor of this one's: fast weights in Mode::adapt, or its meta-gradient.
inline bool has_output(const Settings& settings, const TensorSpec& tensor) {
  return settings.mode == Mode::adapt ? tensor.adapted : tensor.trained;
}

// One call. All arrays are dense, C-ordered, of the plan's dtype unless said otherwise.
struct Call {
  int64_t tasks = 0;
  int threads = 1;
  int lanes = 0;                     // at most so many tasks at a time; 0: as many as threads
  bool all_threads = false;          // for tests: waits for all that the plan has work for
  const void* support_x = nullptr;   // [T, S, row...]
  const void* support_y = nullptr;   // [T, S, ...] targets, or int64 class indices [T, S]
  const void* query_x = nullptr;     // [T, Q, row...]
  const void* query_y = nullptr;     // [T, Q, ...]
  std::vector<double> rates;         // [K] inner learning rates
  std::vector<const void*> tensors;  // theta, one pointer for each NetworkSpec::tensors
  std::vector<void*> grads;          // out: meta-gradient of each trained tensor, in order
  std::vector<void*> fast;           // out (adapt): [T, shape...] of each adapted tensor
  void* task_losses = nullptr;       // out [T]; of a curve [T, K + 1]
  void* logits = nullptr;            // out [T, Q, ...]; [T, K + 1, Q, ...]
  void* rate_dots = nullptr;         // out [T, K] <v, g[k]>, of d L / d alpha[k] = -<v, g[k]>
  void* workspace = nullptr;         // 64-byte aligned
  size_t workspace_bytes = 0;
  Poll poll;  // of runs on the CPU
  // On a CUDA device, where every pointer above is one of that device:
  int device = -1;                // its ordinal; -1: the CPU
  void* stream = nullptr;         // cudaStream_t
  const void* tables = nullptr;   // a copy there of Plan::device_tables()
  const void* scalars = nullptr;  // what Plan::scalars says, instead of `rates`
  int team = 0;                   // blocks that share a task, at most; 0: as many as pay
};

// A scalar of a call: `number`, or, where step >= 0, `number` times the rate of that inner step.
struct Scalar {
  double number = 0;
  int step = -1;
};

// What one instruction of the program took in a profiled call.
struct InstructionTime {
  std::string label;   // of the pass: "step 0 fc1.backward", or "u = -alpha v" of none
  double seconds = 0;  // all tasks together; every group of tasks adds one reading of the clock
  double flops = 0;    // multiply-adds counted as two; 0 unless it is a contraction
};

// What ran a call: threads of the CPU; on a device a launch an instruction, one graph, one kernel.
enum class Executor { cpu, launches, graph, resident };

struct Compiled;
struct DeviceCost;  // engine/device_cost.hpp

class Plan {
 public:
  Plan(const NetworkSpec& network, const Settings& settings, const Poll& poll = {});
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  size_t workspace_bytes(int64_t tasks, int threads, int lanes = 0) const;
  size_t program_bytes() const;  // that the plan itself holds on the host, between calls too
  Executor run(const Call& call) const;
  // For a CUDA device, and the bytes it needs a copy of; BackendError in a build without CUDA.
  size_t device_workspace_bytes(int64_t tasks, int lanes = 0) const;
  const std::vector<char>& device_tables() const;
  // The scalars of a call, for who writes them on a device (Call::scalars).
  std::vector<Scalar> scalars(int64_t tasks) const;
  // The cost of a call on a device; any build can say. `shared_limit`: see device_shared_limit.
  DeviceCost device_cost(int64_t tasks, int lanes, int team, int64_t shared_limit) const;
  std::string describe_device(int64_t tasks, int lanes, int team, int64_t shared_limit) const;
  // `run` on one thread, in the workspace of one, and the time of every instruction, in order.
  std::vector<InstructionTime> profile(const Call& call) const;
  std::string describe(int64_t tasks, int threads, int lanes = 0) const;
  double flops(int64_t tasks) const;  // multiply-adds counted as two, contractions only
  Shape output_shape() const;         // of one row of logits
  const Settings& settings() const;

 private:
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace fastmaml
