// Plan: the door of the core. Checks a call against the plan, then hands it to the executor.
#include <chrono>
#include <memory>
#include <mutex>

#include "core/error.hpp"
#include "cpu/executor.hpp"
#include "cpu/profile.hpp"
#include "cuda/executor.hpp"
#include "engine/describe.hpp"
#include "engine/device_cost.hpp"
#include "fastmaml.hpp"
#include "plan/footprint.hpp"
#include "plan/program.hpp"

namespace fastmaml {

namespace {

void check_sizes(int64_t tasks, int threads, int lanes) {
  constexpr int64_t kMostTasks = int64_t{1} << 40;  // sizes of buffers are products with it
  if (tasks < 1 || tasks > kMostTasks)
    throw InternalError(message("run: tasks must be at least 1, got ", tasks));
  if (threads < 1 || lanes < 0)
    throw InternalError(
        message("run: threads must be at least 1 and lanes 0, got ", threads, " and ", lanes));
}

}  // namespace

struct Compiled : Program {
  explicit Compiled(Program&& program)
      : Program(std::move(program)),
        schedule(*this),
        bytes(block_bytes(sizeof(Compiled)) + footprint(*this) + schedule.bytes()) {}
  // Made on first use: most plans never see a device.
  const DevicePlan& for_device() const {
    std::call_once(device_once, [this] { device = std::make_unique<const DevicePlan>(*this); });
    return *device;
  }
  Schedule schedule;
  const size_t bytes;  // that it holds, but for what calls add
  mutable Habits habits;
  std::shared_ptr<Habits::Habit> habit(int64_t tasks, int threads, int lanes) const {
    check_sizes(tasks, threads, lanes);
    return habits.of(*this, schedule, tasks, threads, lanes);
  }
  mutable std::once_flag device_once;
  mutable std::unique_ptr<const DevicePlan> device;
};

namespace {

void check_not_for_device(const Settings& settings) {
  if (settings.device)
    throw InternalError("run: the program is for a device, and the call names the CPU");
}

void check_call(const Program& program, const Call& call, size_t bytes) {
  const Settings& s = program.settings;
  auto require = [](bool holds, auto... parts) {
    if (!holds) throw InternalError(message("run: ", parts...));
  };
  require(call.rates.size() == static_cast<size_t>(s.inner_steps), "rates must hold ",
          s.inner_steps, " numbers, got ", call.rates.size());
  require(call.tensors.size() == program.network.tensors.size(), "tensors must hold ",
          program.network.tensors.size(), " pointers, got ", call.tensors.size());
  for (const void* tensor : call.tensors) require(tensor != nullptr, "a tensor is null");
  const auto& outputs = s.mode == Mode::adapt ? call.fast : call.grads;
  const bool writes = s.mode == Mode::meta_step || s.mode == Mode::adapt;
  const size_t wanted = writes ? static_cast<size_t>(program.output_count) : 0;
  require(outputs.size() == wanted, "outputs must hold ", wanted, " pointers, got ",
          outputs.size());
  for (const void* output : outputs) require(output != nullptr, "an output is null");
  require(call.support_x && call.support_y, "the support set is null");
  if (s.mode != Mode::adapt)
    require(call.query_x && call.query_y && call.logits && call.task_losses,
            "the query set or its outputs are null");
  require(!s.rate_grad || call.rate_dots, "rate_dots is null");
  require(reinterpret_cast<uintptr_t>(call.workspace) % 64 == 0,
          "the workspace must be aligned to 64 bytes");
  require(call.device < 0 || call.tables, "tables is null");
  require(!s.tf32 || (call.device >= 0 && s.dtype == Dtype::f32),
          "tf32 is for float32 on a CUDA device");
  require(call.workspace && call.workspace_bytes >= bytes, "the workspace must have ", bytes,
          " bytes, got ", call.workspace_bytes);
}

// On as many threads as calls of this size were measured to gain from.
void run_at_pace(const Compiled& compiled, const Call& call, Habits::Habit& habit) {
  int threads = habit.layout.threads;
  // A lock that another thread has, or had when this process was forked, is not waited for.
  if (const std::unique_lock lock(habit.mutex, std::try_to_lock); lock && !call.all_threads)
    threads = habit.pace.threads();
  const auto start = std::chrono::steady_clock::now();
  execute(compiled, compiled.schedule, habit.layout, kernels_of(compiled.settings.dtype), call,
          threads);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  if (const std::unique_lock lock(habit.mutex, std::try_to_lock); lock && !call.all_threads)
    habit.pace.took(threads, taken.count());
}

}  // namespace

Plan::Plan(const NetworkSpec& network, const Settings& settings, const Poll& poll)
    : compiled_(std::make_unique<const Compiled>(write_program(network, settings, poll))) {}

Plan::~Plan() = default;

size_t Plan::workspace_bytes(int64_t tasks, int threads, int lanes) const {
  return compiled_->habit(tasks, threads, lanes)->layout.total;
}

size_t Plan::program_bytes() const { return compiled_->bytes; }

size_t Plan::device_workspace_bytes(int64_t tasks, int lanes) const {
  check_sizes(tasks, 1, lanes);
  return compiled_->for_device().workspace_bytes(tasks, lanes);
}

const std::vector<char>& Plan::device_tables() const { return compiled_->for_device().tables(); }

DeviceCost Plan::device_cost(int64_t tasks, int lanes, int team, int64_t shared_limit) const {
  check_sizes(tasks, 1, lanes);
  return fastmaml::device_cost(*compiled_, tasks, lanes, team, shared_limit);
}

std::string Plan::describe_device(int64_t tasks, int lanes, int team, int64_t shared_limit) const {
  return describe_device_program(*compiled_, device_cost(tasks, lanes, team, shared_limit), tasks,
                                 device_tables().size(), shared_limit);
}

Executor Plan::run(const Call& call) const {
  if (call.device >= 0) {
    check_call(*compiled_, call, device_workspace_bytes(call.tasks, call.lanes));
    return compiled_->for_device().run(call);
  }
  check_not_for_device(compiled_->settings);
  const auto habit = compiled_->habit(call.tasks, call.threads, call.lanes);
  check_call(*compiled_, call, habit->layout.total);
  run_at_pace(*compiled_, call, *habit);
  return Executor::cpu;
}

std::vector<InstructionTime> Plan::profile(const Call& call) const {
  check_not_for_device(compiled_->settings);
  Call alone = call;
  alone.threads = 1;
  check_call(*compiled_, alone, workspace_bytes(alone.tasks, 1, alone.lanes));
  return execute_timed(*compiled_, compiled_->schedule, alone);
}

std::string Plan::describe(int64_t tasks, int threads, int lanes) const {
  return describe_program(*compiled_, compiled_->bytes,
                          compiled_->habit(tasks, threads, lanes)->layout, tasks);
}

double Plan::flops(int64_t tasks) const {
  return compiled_->body_flops * static_cast<double>(tasks);
}

std::vector<Scalar> Plan::scalars(int64_t tasks) const {
  const Settings& settings = compiled_->settings;
  std::vector<Scalar> scalars(static_cast<size_t>(Scalars::count(settings.inner_steps)));
  for_each_scalar(settings, tasks, [&](int slot, const Scalar& scalar) {
    scalars[static_cast<size_t>(slot)] = scalar;
  });
  return scalars;
}

Shape Plan::output_shape() const { return compiled_->network.loss.in_shapes[0]; }

const Settings& Plan::settings() const { return compiled_->settings; }

}  // namespace fastmaml
