#include "cuda/layout.hpp"

#include <algorithm>

#include "cuda/call.hpp"
#include "cuda/forms.hpp"
#include "cuda/kernels.hpp"
#include "cuda/resident.hpp"
#include "plan/scalars.hpp"

namespace fastmaml {
namespace {

// What a round may keep; beyond it more rounds are made.
constexpr int64_t kDeviceRoundBytes = int64_t{2} << 30;
constexpr size_t kDeviceLine = 256;  // arrays of the workspace begin on so many bytes
// One block sums over the tasks at the end; beyond so many, many blocks do it sooner.
constexpr int64_t kMostResidentTasks = 512;

size_t device_lined(size_t bytes) { return (bytes + kDeviceLine - 1) / kDeviceLine * kDeviceLine; }

int64_t scalar_words(const Program& program) {
  return (Scalars::count(program.settings.inner_steps) * element_bytes(program.settings) + 7) / 8;
}

}  // namespace

DeviceLayout layout_of(const Program& program, int64_t tasks, int lanes) {
  const int64_t bytes = element_bytes(program.settings);
  const int64_t each =
      std::max<int64_t>(1, (program.keep.elements + program.transient.elements) * bytes);
  DeviceLayout layout;
  const int64_t most = std::max<int64_t>(1, lanes > 0 ? lanes : kDeviceRoundBytes / each);
  const int64_t rounds = std::max<int64_t>(1, (tasks + most - 1) / most);
  layout.round = (tasks + rounds - 1) / rounds;
  auto take = [&](int64_t size) {
    const size_t at = layout.total;
    layout.total += device_lined(static_cast<size_t>(size));
    return at;
  };
  layout.base = take(spaces_of(program) * 8);
  layout.scalars = take(Scalars::count(program.settings.inner_steps) * 8);
  layout.shared = take(program.shared.elements * bytes);
  layout.keep = take(program.keep.elements * bytes * layout.round);
  layout.transient = take(program.transient.elements * bytes * layout.round);
  return layout;
}

int64_t word_launches(const Program& program) {
  const auto launches = [](int64_t words) { return (words + Words::kMost - 1) / Words::kMost; };
  return launches(spaces_of(program)) + launches(scalar_words(program));
}

bool resident_knows(const Program& program) {
  // Its tiles are float's own.
  if (!program.epilogue.empty() || program.settings.tf32) return false;
  for (const auto* section : {&program.prologue, &program.body, &program.commit})
    for (const Instruction& instruction : *section)
      if (!is_resident(instruction.args) ||
          depth_split(program.settings, instruction) != DepthSplit::none)
        return false;
  return true;
}

int64_t resident_bytes(const Program& program) {
  const int64_t instruction =
      program.settings.dtype == Dtype::f32 ? kInstructionBytes<float> : kInstructionBytes<double>;
  return (program.transient.elements + program.shared.elements) * element_bytes(program.settings) +
         instruction;
}

const char* resident_obstacle(const Program& program, const DeviceLayout& layout, int64_t tasks,
                              int team, int64_t shared_limit) {
  if (!resident_knows(program)) return "it does not hold the kernels of all the instructions";
  if (layout.round < tasks) return "the tasks take several rounds";
  if (tasks > kMostResidentTasks) return "its last block would sum over more than 512 tasks";
  if (team > 0) return "several blocks are to share a task";
  if (spaces_of(program) > ResidentCall::kMostSpaces ||
      scalar_words(program) > ResidentCall::kMostScalars)
    return "the network has more tensors, or the call more inner steps, than a launch can name";
  if (resident_bytes(program) > shared_limit) return "a task outgrows a block's shared memory";
  return nullptr;
}

}  // namespace fastmaml
