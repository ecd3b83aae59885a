#include "cpu/profile.hpp"

#include <chrono>

namespace fastmaml {
namespace {

// A step, wrapped: the executor takes it for a step of the only kind there is, whose kernel runs
// the wrapped one between two readings of the clock. So the executor itself knows no profile.
struct TimedStep {
  Kernel kernel;
  const void* args;
  double seconds = 0;
};

void run_timed(const void* args, const Context& context) {
  // Steps hold their arguments as constants; this one is the profile's own and is written.
  TimedStep& step = *static_cast<TimedStep*>(const_cast<void*>(args));
  const auto start = std::chrono::steady_clock::now();
  step.kernel(step.args, context);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  step.seconds += taken.count();
}

}  // namespace

std::vector<InstructionTime> execute_timed(const Program& program, const Schedule& schedule,
                                           const Call& call) {
  const Kernel* kernels = kernels_of(program.settings.dtype);
  const Layout layout = plan_layout(program, schedule, call.tasks, 1, call.lanes);
  Schedule timed = schedule;
  std::vector<TimedStep> steps;
  steps.reserve(schedule.prologue.size() + schedule.body.size() + schedule.commit.size() +
                schedule.epilogue.size());
  for (auto* section : {&timed.prologue, &timed.body, &timed.commit, &timed.epilogue})
    for (Step& step : *section) {
      steps.push_back({kernels[step.kind], step.args});
      step.kind = 0, step.args = &steps.back();
    }
  const Kernel kernel = run_timed;
  execute(program, timed, layout, &kernel, call, 1);

  std::vector<InstructionTime> times;
  times.reserve(steps.size());
  for (const auto* section : {&program.prologue, &program.body, &program.commit, &program.epilogue})
    for (const Instruction& instruction : *section)
      times.push_back({label_text(program, instruction.label), steps[times.size()].seconds,
                       flops(instruction.args) * static_cast<double>(call.tasks)});
  return times;
}

}  // namespace fastmaml
