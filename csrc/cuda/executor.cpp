#include "cuda/executor.hpp"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "cuda/kernels.hpp"
#include "cuda/launcher.hpp"
#include "cuda/lower.hpp"
#include "plan/scalars.hpp"
#if defined(FASTMAML_SIMT)
#include "cuda/regions.hpp"
#endif

namespace fastmaml {
namespace {

// What a round may keep; beyond it more rounds are made.
constexpr int64_t kRoundBytes = int64_t{2} << 30;
constexpr size_t kLine = 256;  // arrays of the workspace begin on so many bytes
// Blocks per multiprocessor that a launch is cut into, where it has the work.
constexpr int64_t kBlocksEach = 4;

size_t lined(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// How the workspace is cut up; offsets in bytes.
struct DeviceLayout {
  int64_t round = 1;
  size_t base = 0, scalars = 0, shared = 0, keep = 0, transient = 0, total = 0;
};

DeviceLayout layout_of(const Program& program, int64_t tasks, int lanes) {
  const int64_t bytes = program.settings.dtype == Dtype::f32 ? 4 : 8;
  const int64_t each =
      std::max<int64_t>(1, (program.keep.elements + program.transient.elements) * bytes);
  DeviceLayout layout;
  const int64_t most = std::max<int64_t>(1, lanes > 0 ? lanes : kRoundBytes / each);
  const int64_t rounds = std::max<int64_t>(1, (tasks + most - 1) / most);
  layout.round = (tasks + rounds - 1) / rounds;
  auto take = [&](int64_t size) {
    const size_t at = layout.total;
    layout.total += lined(static_cast<size_t>(size));
    return at;
  };
  layout.base = take(spaces_of(program) * 8);
  layout.scalars = take(Scalars::count(program.settings.inner_steps) * 8);
  layout.shared = take(program.shared.elements * bytes);
  layout.keep = take(program.keep.elements * bytes * layout.round);
  layout.transient = take(program.transient.elements * bytes * layout.round);
  return layout;
}

std::vector<uint64_t> base_words(const Program& program, const Call& call,
                                 const DeviceLayout& layout) {
  char* const workspace = static_cast<char*>(call.workspace);
  std::vector<uint64_t> words(static_cast<size_t>(spaces_of(program)));
  for_each_space(program, call, [&](int space, const void* pointer) {
    words[static_cast<size_t>(space)] = reinterpret_cast<uint64_t>(pointer);
  });
  const auto place = [&](int space, size_t offset) {
    words[static_cast<size_t>(space)] = reinterpret_cast<uint64_t>(workspace + offset);
  };
  place(kTransient, layout.transient), place(kKeep, layout.keep);
  place(kShared, layout.shared), place(kScalars, layout.scalars);
  return words;
}

std::vector<uint64_t> scalar_words(const Program& program, const Call& call) {
  std::vector<uint64_t> words(static_cast<size_t>(Scalars::count(program.settings.inner_steps)));
  if (program.settings.dtype == Dtype::f32)
    write_scalars<float>(program, call, words.data());
  else
    write_scalars<double>(program, call, words.data());
  return words;
}

}  // namespace

struct DevicePlan::State {
  const Program& program;
  DeviceProgram lowered;
  const DeviceKernelTable& kernels;

  explicit State(const Program& p)
      : program(p), lowered(p), kernels(device_kernels(p.settings.dtype)) {}
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
    const int64_t wanted = kBlocksEach * multiprocessors(call.device);
    most_blocks_ = wanted;
  }

  void words(size_t offset, const std::vector<uint64_t>& words) {
    for (size_t at = 0; at < words.size(); at += Words::kMost) {
      Words part;
      part.count = static_cast<int64_t>(std::min<size_t>(Words::kMost, words.size() - at));
      std::memcpy(part.of, words.data() + at, static_cast<size_t>(part.count) * 8);
      auto* to = reinterpret_cast<uint64_t*>(static_cast<char*>(call_.workspace) + offset) + at;
      launcher_.launch(write_words_kernel(), {1, 1}, 0, to, part);
    }
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

  void launch(const DeviceInstruction& instruction) {
    const DeviceKernel& kernel = kernels_.of[instruction.kind];
    const int64_t tasks = instruction.shared ? 1 : device_.tasks;
    int64_t team = std::max<int64_t>(1, most_blocks_ / tasks);
    if (call_.team > 0) team = call_.team;
    const char* host = program_.tables.bytes().data() + instruction.args;
    team = std::max<int64_t>(1, std::min(team, kernel.units(host)));
    constexpr int64_t kMostRows = 65535;
    const LaunchSize size{static_cast<unsigned>(team),
                          static_cast<unsigned>(std::min(tasks, kMostRows))};
    launcher_.launch(kernel.function, size, kernel.shared_bytes, device_.tables + instruction.args,
                     device_, instruction.shared);
  }

  const DeviceProgram& program_;
  const DeviceKernelTable& kernels_;
  const Call& call_;
  Launcher& launcher_;
  DeviceCall device_;
  int64_t most_blocks_ = 1;
};

}  // namespace

std::string device_absence() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return message("CUDA says: ", cudaGetErrorString(error));
  return count > 0 ? "" : "this machine has no CUDA device";
}

DevicePlan::DevicePlan(const Program& program) : state_(std::make_unique<State>(program)) {}
DevicePlan::~DevicePlan() = default;

size_t DevicePlan::workspace_bytes(int64_t tasks, int lanes) const {
  return layout_of(state_->program, tasks, lanes).total;
}

const std::vector<char>& DevicePlan::tables() const { return state_->lowered.tables.bytes(); }

void DevicePlan::run(const Call& call) const {
  const DeviceGuard guard(call.device);
#if defined(FASTMAML_SIMT)
  simt::allow(regions_of(state_->program, call, tables().size()));
#endif
  const DeviceLayout layout = layout_of(state_->program, call.tasks, call.lanes);
  StreamLauncher launcher(call.stream);
  Sequence sequence(state_->lowered, state_->kernels, call, layout, launcher);
  sequence.words(layout.base, base_words(state_->program, call, layout));
  sequence.words(layout.scalars, scalar_words(state_->program, call));
  sequence.run();
}

}  // namespace fastmaml
