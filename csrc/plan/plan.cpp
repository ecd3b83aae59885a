// Plan: the door of the core. Checks a call against the plan, then hands it to the executor.
#include "core/error.hpp"
#include "cpu/executor.hpp"
#include "cpu/profile.hpp"
#include "fastmaml.hpp"
#include "plan/describe.hpp"
#include "plan/program.hpp"

namespace fastmaml {

struct Compiled : Program {
  explicit Compiled(Program&& program) : Program(std::move(program)), schedule(*this) {}
  Schedule schedule;
};

namespace {

void check_call(const Program& program, const Call& call) {
  const Settings& s = program.settings;
  auto require = [](bool holds, auto... parts) {
    if (!holds) throw InternalError(message("run: ", parts...));
  };
  require(call.tasks >= 1, "tasks must be at least 1, got ", call.tasks);
  require(call.rates.size() == static_cast<size_t>(s.inner_steps), "rates must hold ",
          s.inner_steps, " numbers, got ", call.rates.size());
  require(call.tensors.size() == program.network.tensors.size(), "tensors must hold ",
          program.network.tensors.size(), " pointers, got ", call.tensors.size());
  for (const void* tensor : call.tensors) require(tensor != nullptr, "a tensor is null");
  const auto& outputs = s.mode == Mode::adapt ? call.fast : call.grads;
  const size_t wanted =
      s.mode == Mode::evaluate ? 0 : static_cast<size_t>(program.network.trainable_count);
  require(outputs.size() == wanted, "outputs must hold ", wanted, " pointers, got ",
          outputs.size());
  for (const void* output : outputs) require(output != nullptr, "an output is null");
  require(call.support_x && call.support_y, "the support set is null");
  if (s.mode != Mode::adapt)
    require(call.query_x && call.query_y && call.logits && call.task_losses,
            "the query set or its outputs are null");
  require(!s.rate_grad || call.loss_dots, "loss_dots is null");
  require(reinterpret_cast<uintptr_t>(call.workspace) % 64 == 0,
          "the workspace must be aligned to 64 bytes");
  const size_t bytes = plan_layout(program, call.tasks, call.threads, call.lanes).total;
  require(call.workspace && call.workspace_bytes >= bytes, "the workspace must have ", bytes,
          " bytes, got ", call.workspace_bytes);
}

}  // namespace

Plan::Plan(const NetworkSpec& network, const Settings& settings)
    : compiled_(std::make_unique<const Compiled>(write_program(network, settings))) {}

Plan::~Plan() = default;

size_t Plan::workspace_bytes(int64_t tasks, int threads, int lanes) const {
  return plan_layout(*compiled_, tasks, threads, lanes).total;
}

void Plan::run(const Call& call) const {
  check_call(*compiled_, call);
  execute(*compiled_, compiled_->schedule, kernels_of(compiled_->settings.dtype), call);
}

std::vector<InstructionTime> Plan::profile(const Call& call) const {
  Call alone = call;
  alone.threads = 1;
  check_call(*compiled_, alone);
  return execute_timed(*compiled_, compiled_->schedule, alone);
}

std::string Plan::describe(int64_t tasks, int threads, int lanes) const {
  return describe_program(*compiled_, tasks, threads, lanes);
}

double Plan::flops(int64_t tasks) const {
  return compiled_->body_flops * static_cast<double>(tasks);
}

Shape Plan::output_shape() const { return compiled_->network.loss.in_shapes[0]; }

const Settings& Plan::settings() const { return compiled_->settings; }

int64_t first_outside(const int64_t* values, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i)
    if (values[i] < 0 || values[i] >= limit) return i;
  return -1;
}

}  // namespace fastmaml
