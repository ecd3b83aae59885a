#include "cpu/layout.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/integers.hpp"
#include "cpu/executor.hpp"
#include "plan/footprint.hpp"
#include "plan/scalars.hpp"

namespace fastmaml {
namespace {

// What a round may keep until its commit. More rounds cost a pass over the gradients each.
constexpr int64_t kRoundBytes = int64_t{48} << 20;
// What a lane's group may occupy, so that it stays in a core's second-level cache. (Twice as much
// is 3% faster on the five-step sinusoid, for a quarter more memory.)
constexpr int64_t kGroupBytes = int64_t{128} << 10;
// Rows of stacked tasks beyond which a shared-weight product gains nothing from more.
constexpr int64_t kStackedRows = 64;
// Below this much work (nanoseconds, estimated) waking a second thread costs more than it saves.
constexpr double kSerialNanoseconds = 12'000;
// Groups smaller than this would be mostly the walk over the instructions.
constexpr double kGroupNanoseconds = 15'000;
constexpr double kMostThreads = 512;
// Sharing the instructions pays off from this many FLOPs of one.
constexpr double kTeamFlops = 60'000;
// Groups a thread finds in what is left: who is late, or slow, leaves the others something to do.
constexpr int64_t kGroupsEach = 2;
constexpr size_t kLine = 64;

size_t lined(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// At usual rates of contractions and of a second-level cache; every instruction costs a little.
double nanoseconds_of(const Instruction& instruction, Dtype dtype) {
  const int64_t number = dtype == Dtype::f32 ? 4 : 8;
  double bytes = 0;
  visit_operands(instruction.args, [&](const Operand&, Amount amount, bool) {
    bytes += static_cast<double>(amount.bytes(number));
  });
  return 20 + flops(instruction.args) / 50 + bytes / 40;
}

// Groups of a round: whole tasks in cache, or enough stacked rows to read a shared weight once for
// many, as evenly as threads take them.
int64_t largest_group(const Program& program, int64_t round, int threads, int64_t transient) {
  int64_t most = std::max<int64_t>(1, kGroupBytes / transient);
  if (!program.any_factored) return std::min(most, round);
  most = std::max(most, divide_up(kStackedRows, std::min(program.settings.support_rows,
                                                         program.settings.query_rows)));
  const int64_t each = divide_up(divide_up(round, most), threads) * threads;
  return divide_up(round, std::min(round, each));
}

// Stacked rows are worth waiting for; else the walk over the instructions must be worth it.
int64_t smallest_group(const Program& program, const Schedule& schedule, int64_t largest) {
  if (program.any_factored) return largest;
  const double tasks = kGroupNanoseconds / std::max(1.0, schedule.body_nanoseconds);
  return std::min(largest, static_cast<int64_t>(tasks) + 1);
}

}  // namespace

Schedule::Schedule(const Program& program) {
  const Dtype dtype = program.settings.dtype;
  auto list = [&](const std::vector<Instruction>& section, std::vector<Step>& steps) {
    steps.reserve(section.size());
    for (const Instruction& instruction : section) {
      const void* args =
          visit_args([](const auto& alternative) { return static_cast<const void*>(&alternative); },
                     instruction.args);
      steps.push_back({static_cast<int>(instruction.args.index()), phases(instruction.args), args,
                       nanoseconds_of(instruction, dtype)});
    }
  };
  list(program.prologue, prologue);
  list(program.body, body);
  list(program.commit, commit);
  list(program.epilogue, epilogue);
  for (const auto* section : {&prologue, &commit, &epilogue})
    for (const Step& step : *section)
      if (step.phases > 1) throw InternalError("an instruction outside the body asks for phases");
  for (const Step& step : body) {
    any_phases = any_phases || step.phases > 1;
    body_nanoseconds += step.nanoseconds;
  }
}

size_t Schedule::bytes() const {
  size_t total = 0;
  for (const auto* section : {&prologue, &body, &commit, &epilogue})
    total += block_bytes(section->capacity() * sizeof(Step));
  return total;
}

int64_t Layout::piece(int64_t left, int threads) const {
  return std::min(left, std::clamp(divide_up(left, kGroupsEach * threads), least, group));
}

Layout plan_layout(const Program& program, const Schedule& schedule, int64_t tasks, int threads,
                   int lanes) {
  Layout layout;
  const int64_t bytes = element_bytes(program.settings);
  const int64_t keep = std::max<int64_t>(1, program.keep.elements * bytes);
  const int64_t transient = std::max<int64_t>(1, program.transient.elements * bytes);
  const int64_t rounds = divide_up(tasks, std::max<int64_t>(1, kRoundBytes / keep));
  layout.round = std::max<int64_t>(1, divide_up(tasks, std::max<int64_t>(1, rounds)));

  // Threads beyond what the work can feed, or beyond any sensible machine, would only wait.
  const double nanoseconds = static_cast<double>(tasks) * schedule.body_nanoseconds;
  const double useful = std::min(kMostThreads, 2 * nanoseconds / kSerialNanoseconds);
  threads = std::max(1, std::min(threads, static_cast<int>(useful)));
  if (nanoseconds < kSerialNanoseconds) threads = 1;

  layout.group = largest_group(program, layout.round, threads, transient);
  layout.least = smallest_group(program, schedule, layout.group);
  layout.lanes =
      static_cast<int>(std::min<int64_t>(threads, divide_up(layout.round, layout.least)));
  if (lanes > 0) layout.lanes = std::min(layout.lanes, lanes);
  const double flops_each = program.body_flops * static_cast<double>(layout.group) /
                            static_cast<double>(std::max<size_t>(1, program.body.size()));
  layout.threads = flops_each >= kTeamFlops ? threads : layout.lanes;

  size_t at = 0;
  auto take = [&](size_t size) {
    const size_t offset = at;
    at += lined(size);
    return offset;
  };
  const auto each_thread = static_cast<size_t>(layout.threads);
  const auto each_lane = static_cast<size_t>(layout.lanes);
  layout.scalars = take(static_cast<size_t>(Scalars::count(program.settings.inner_steps) * bytes));
  layout.shared = take(static_cast<size_t>(program.shared.elements * bytes));
  layout.keep = take(static_cast<size_t>(program.keep.elements * bytes * layout.round));
  layout.transient = lined(static_cast<size_t>(program.transient.elements * bytes * layout.group));
  layout.transients = take(layout.transient * each_lane);
  layout.member = lined(member_bytes(program));
  layout.members = take(layout.member * each_thread);
  layout.lane_state = lined(lane_state_bytes());
  layout.lane_states = take(layout.lane_state * each_lane);
  layout.scratch_each = lined(std::max(kScratchBytes, program.scratch_bytes));
  layout.scratch = take(layout.scratch_each * each_thread);
  // One for each lane, apart from the threads' own: who runs which part is nobody's to know.
  const bool teams = layout.threads > 1 && schedule.any_phases;
  layout.team_scratch = take(teams ? layout.scratch_each * each_lane : 0);
  layout.total = at;
  return layout;
}

}  // namespace fastmaml
