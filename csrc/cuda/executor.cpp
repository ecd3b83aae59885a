#include "cuda/executor.hpp"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "core/error.hpp"
#include "cuda/graph.hpp"
#include "cuda/kernels.hpp"
#include "cuda/launcher.hpp"
#include "cuda/layout.hpp"
#include "cuda/lower.hpp"
#include "machine.hpp"
#include "plan/scalars.hpp"
#if defined(FASTMAML_SIMT)
#include "cuda/regions.hpp"
#endif

namespace fastmaml {
namespace {

// Blocks per multiprocessor that a launch is cut into, where it has the work.
constexpr int64_t kBlocksEach = 4;

// `from`: where the words stand on the device, if they do.
void add_pokes(std::vector<Poke>& pokes, char* to, const std::vector<uint64_t>& words,
               const void* from = nullptr) {
  for (size_t at = 0; at < words.size(); at += Words::kMost) {
    Poke poke{};
    poke.to = reinterpret_cast<uint64_t*>(to) + at;
    poke.words.count = static_cast<int64_t>(std::min<size_t>(Words::kMost, words.size() - at));
    if (from)
      poke.words.from = static_cast<const uint64_t*>(from) + at;
    else
      std::memcpy(poke.words.of, words.data() + at, static_cast<size_t>(poke.words.count) * 8);
    pokes.push_back(poke);
  }
}

std::vector<uint64_t> base_words(const Program& program, const Call& call,
                                 const DeviceLayout& layout) {
  char* const workspace = static_cast<char*>(call.workspace);
  std::vector<uint64_t> words(static_cast<size_t>(spaces_of(program)));
  const auto set = [&](int space, const void* pointer) {
    words[static_cast<size_t>(space)] = reinterpret_cast<uint64_t>(pointer);
  };
  for_each_space(program, call, set);
  set(kTransient, workspace + layout.transient), set(kKeep, workspace + layout.keep);
  set(kShared, workspace + layout.shared), set(kScalars, workspace + layout.scalars);
  return words;
}

std::vector<uint64_t> scalar_words(const Program& program, const Call& call) {
  const int64_t bytes = program.settings.dtype == Dtype::f32 ? 4 : 8;
  const int64_t words = (Scalars::count(program.settings.inner_steps) * bytes + 7) / 8;
  std::vector<uint64_t> scalars(static_cast<size_t>(words));
  if (program.settings.dtype == Dtype::f32)
    write_scalars<float>(program, call, scalars.data());
  else
    write_scalars<double>(program, call, scalars.data());
  return scalars;
}

const DeviceKernelTable& kernels_for(const Settings& settings) {
  return settings.tf32 ? device_kernels_tf32() : device_kernels(settings.dtype);
}

bool is_capturing(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status),
             "asking whether the stream is being captured");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

struct DevicePlan::State {
  const Program& program;
  DeviceProgram lowered;
  const DeviceKernelTable& kernels;

  std::mutex mutex;
  Replays replays;

  explicit State(const Program& p) : program(p), lowered(p), kernels(kernels_for(p.settings)) {}
};

namespace {

// The launches of one call, in order.
class Sequence {
 public:
  Sequence(const DeviceProgram& program, const DeviceKernelTable& kernels, const Call& call,
           const DeviceLayout& layout, Launcher& launcher)
      : program_(program), kernels_(kernels), call_(call), launcher_(launcher) {
    char* const workspace = static_cast<char*>(call.workspace);
    device_.base = reinterpret_cast<char* const*>(workspace + layout.base);
    device_.scalars = workspace + layout.scalars;
    device_.tables = static_cast<const char*>(call.tables);
    device_.capacity = layout.round;
    most_blocks_ = kBlocksEach * multiprocessors(call.device);
  }

  void run() {
    device_.tasks = 1;
    section(program_.prologue);
    for (int64_t start = 0; start < call_.tasks; start += device_.capacity) {
      device_.start = start, device_.tasks = std::min(device_.capacity, call_.tasks - start);
      section(program_.body);
      section(program_.commit);
    }
    device_.start = 0, device_.tasks = 1;
    section(program_.epilogue);
  }

 private:
  void section(const std::vector<DeviceInstruction>& instructions) {
    for (const DeviceInstruction& instruction : instructions) launch(instruction);
  }

  const DeviceKernelTable& table(DepthSplit split) const {
    return split == DepthSplit::none ? kernels_ : device_kernels_split(split);
  }

  void launch(const DeviceInstruction& instruction) {
    const DeviceKernel& kernel = table(instruction.split).of[instruction.kind];
    const int64_t tasks = instruction.shared ? 1 : device_.tasks;
    int64_t team = std::max<int64_t>(1, most_blocks_ / tasks);
    if (call_.team > 0) team = call_.team;
    const char* args = program_.tables.bytes().data() + instruction.args;
    team = std::max<int64_t>(1, std::min(team, kernel.units(args)));
    constexpr int64_t kMostRows = 65535;
    const LaunchSize size{static_cast<unsigned>(team),
                          static_cast<unsigned>(std::min(tasks, kMostRows))};
    launcher_.launch(kernel, size, args, device_, instruction.shared);
  }

  const DeviceProgram& program_;
  const DeviceKernelTable& kernels_;
  const Call& call_;
  Launcher& launcher_;
  DeviceCall device_;
  int64_t most_blocks_ = 1;
};

}  // namespace

namespace {

// The call in one launch, or false where the program or the call is too large for it.
bool run_resident(const Program& program, const DeviceProgram& lowered, const Call& call,
                  const DeviceLayout& layout, const std::vector<Poke>& pokes) {
  if (!lowered.resident ||
      resident_obstacle(program, layout, call.tasks, call.team, device_shared_limit(call.device)))
    return false;
  const Dtype dtype = program.settings.dtype;
  const int64_t bytes = dtype == Dtype::f32 ? 4 : 8;
  int64_t wanted = resident_bytes(program);
  ResidentCall run{};
  run.transient_bytes = program.transient.elements * bytes;
  run.shared_bytes = program.shared.elements * bytes;
  static_assert(ResidentCall::kMostSpaces == Words::kMost);
  std::memcpy(run.base, pokes[0].words.of, sizeof run.base);
  std::memcpy(run.scalars, pokes[1].words.of, sizeof run.scalars);
  run.scalars_from = call.scalars;
  run.tables = static_cast<const char*>(call.tables), run.tasks = call.tasks;
  run.prologue = lowered.resident_prologue, run.body = lowered.resident_body;
  run.last = lowered.resident_last;
  const auto table_bytes = static_cast<int64_t>(lowered.tables.bytes().size());
  if (wanted + table_bytes <= device_shared_limit(call.device))
    run.table_bytes = table_bytes, wanted += table_bytes;
  const void* kernel = resident_kernel(dtype);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(wanted)),
             "asking for more shared memory");
  StreamLauncher(call.stream).launch(kernel, {static_cast<unsigned>(call.tasks), 1}, wanted, run);
  return true;
}

}  // namespace

std::string device_absence() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return message("CUDA says: ", cudaGetErrorString(error));
  return count > 0 ? "" : "this machine has no CUDA device";
}

int64_t device_shared_limit(int device) {
  int most = 0;
  check_cuda(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "asking for the shared memory");
  return most;
}

DevicePlan::DevicePlan(const Program& program) : state_(std::make_unique<State>(program)) {}
DevicePlan::~DevicePlan() = default;

size_t DevicePlan::workspace_bytes(int64_t tasks, int lanes) const {
  return layout_of(state_->program, tasks, lanes).total;
}

const std::vector<char>& DevicePlan::tables() const { return state_->lowered.tables.bytes(); }

Executor DevicePlan::run(const Call& call) const {
  const DeviceGuard guard(call.device);
#if defined(FASTMAML_SIMT)
  simt::allow(regions_of(state_->program, call, tables().size()));
#endif
  State& state = *state_;
  const DeviceLayout layout = layout_of(state.program, call.tasks, call.lanes);
  std::vector<Poke> pokes;
  char* const workspace = static_cast<char*>(call.workspace);
  add_pokes(pokes, workspace + layout.base, base_words(state.program, call, layout));
  add_pokes(pokes, workspace + layout.scalars, scalar_words(state.program, call), call.scalars);
  const auto launch_all = [&](Launcher& launcher) {
    Sequence(state.lowered, state.kernels, call, layout, launcher).run();
  };
  // A caller's capture gets the launches themselves: a graph of ours could not be changed later.
  if (is_capturing(call.stream)) {
    StreamLauncher launcher(call.stream);
    for (const Poke& poke : pokes)
      launcher.launch(write_words_kernel(), {1, 1}, 0, poke.to, poke.words);
    launch_all(launcher);
    return Executor::launches;
  }
  if (run_resident(state.program, state.lowered, call, layout, pokes)) return Executor::resident;
  const Replay::Key key{call.device, call.tasks,     call.lanes,
                        call.team,   call.workspace, call.tables};
  const std::lock_guard<std::mutex> lock(state.mutex);
  state.replays.find(key, pokes, launch_all).launch(pokes, call.stream);
  return Executor::graph;
}

}  // namespace fastmaml
