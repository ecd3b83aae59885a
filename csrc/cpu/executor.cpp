#include "cpu/executor.hpp"

#include <algorithm>
#include <atomic>
#include <new>

#include "core/error.hpp"
#include "core/thread_pool.hpp"
#include "cpu/context.hpp"
#include "cpu/kernels.hpp"
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
// Groups a thread takes in one round, at least, where small groups cost little.
constexpr int64_t kGroupsEach = 2;
// Below this much work (nanoseconds, estimated) waking a second thread costs more than it saves.
constexpr double kSerialNanoseconds = 12'000;
constexpr double kMostThreads = 512;
// A team's barrier after every instruction pays off from this many FLOPs an instruction.
constexpr double kTeamFlops = 60'000;
constexpr size_t kLine = 64;

size_t lined(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

size_t scratch_of(const Program& program) {
  return lined(std::max(kScratchBytes, program.scratch_bytes));
}

// [0, count) cut into `parts` consecutive parts, as even as possible.
int64_t cut(int64_t count, int64_t parts, int64_t part) { return count * part / parts; }

struct Run {
  const Program& program;
  const Schedule& schedule;
  const Call& call;
  const Layout layout;
  const Kernel* kernels;
  Barrier all;  // every thread of the call
  std::atomic<int64_t> next_group{0};

  char* workspace(size_t offset, size_t each = 0, int index = 0) const {
    return static_cast<char*>(call.workspace) + offset + each * static_cast<size_t>(index);
  }
};

// The tables of spaces that one thread reads, in its part of the workspace.
struct Tables {
  char** base;
  int64_t* capacity;
  int64_t* first;
  int count;

  Tables(const Run& run, int rank, int lane) : count(spaces_of(run.program)) {
    const Call& call = run.call;
    const Layout& layout = run.layout;
    base = reinterpret_cast<char**>(run.workspace(layout.tables, layout.table, rank));
    capacity = reinterpret_cast<int64_t*>(base + count);
    first = capacity + count;
    auto set = [&](int space, const void* pointer, int64_t room) {
      base[space] = static_cast<char*>(const_cast<void*>(pointer));
      capacity[space] = room;
      first[space] = 0;
    };
    set(kTransient, run.workspace(layout.transients, layout.transient, lane), layout.group);
    set(kKeep, run.workspace(layout.keep), layout.round);
    set(kShared, run.workspace(layout.shared), 1);
    set(kScalars, run.workspace(layout.scalars), 1);
    for_each_space(run.program, call,
                   [&](int space, const void* pointer) { set(space, pointer, 1); });
  }

  // Points at the tasks that begin at `in_round` of the round that begins at `start`.
  void move(int64_t start, int64_t in_round) {
    for (int space = kSupportX; space < count; ++space) first[space] = start + in_round;
    first[kKeep] = in_round;
  }
};

// One thread's part of the call.
class Worker {
 public:
  Worker(Run& run, int rank)
      : run_(run),
        layout_(run.layout),
        rank_(rank),
        lane_(rank / run.layout.team),
        tables_(run, rank, lane_ < run.layout.lanes ? lane_ : 0) {
    context_.base = tables_.base;
    context_.capacity = tables_.capacity;
    context_.first = tables_.first;
    context_.scalars = run.workspace(layout_.scalars);
    context_.scratch = scratch(rank);
  }

  void work() {
    together(run_.schedule.prologue, 1);
    run_.all.wait();
    for (int64_t start = 0; start < run_.call.tasks; start += layout_.round) {
      const int64_t tasks = std::min(layout_.round, run_.call.tasks - start);
      if (lane_ < layout_.lanes) layout_.team == 1 ? alone(start, tasks) : in_team(start, tasks);
      run_.all.wait();
      if (rank_ == 0) run_.next_group.store(0, std::memory_order_relaxed);
      tables_.move(start, 0);
      together(run_.schedule.commit, tasks);
      // The next round overwrites what this commit reads.
      if (start + layout_.round < run_.call.tasks) run_.all.wait();
    }
    if (run_.schedule.epilogue.empty()) return;
    run_.all.wait();
    together(run_.schedule.epilogue, 1);
  }

 private:
  // A section that all threads share, instruction by instruction; its outputs are independent.
  void together(const std::vector<Step>& steps, int64_t tasks) {
    join(run_.all, 0, layout_.threads);
    context_.tasks = tasks;
    for (const Step& step : steps) run_.kernels[step.kind](step.args, context_);
  }

  // False when the group holds no task of this (last, shorter) round.
  bool enter(int64_t start, int64_t tasks, int64_t group) {
    const int64_t begin = cut(tasks, layout_.groups, group);
    const int64_t end = cut(tasks, layout_.groups, group + 1);
    tables_.move(start, begin);
    context_.tasks = end - begin;
    return begin < end;
  }

  // The team of `size` threads from `first` on.
  void join(Barrier& team, int first, int size) {
    context_.rank = rank_ - first, context_.size = size;
    context_.team_scratch = scratch(first);
    context_.barrier = size > 1 ? &team : nullptr;
  }

  char* scratch(int rank) const {
    return run_.workspace(layout_.scratch, scratch_of(run_.program), rank);
  }

  void alone(int64_t start, int64_t tasks) {
    join(run_.all, rank_, 1);
    for (;;) {
      const int64_t group = run_.next_group.fetch_add(1, std::memory_order_relaxed);
      if (group >= layout_.groups) return;
      if (!enter(start, tasks, group)) continue;
      for (const Step& step : run_.schedule.body) run_.kernels[step.kind](step.args, context_);
    }
  }

  void in_team(int64_t start, int64_t tasks) {
    Barrier& team = *reinterpret_cast<Barrier*>(run_.workspace(layout_.barriers, kLine, lane_));
    join(team, lane_ * layout_.team, layout_.team);
    for (int64_t group = lane_; group < layout_.groups; group += layout_.lanes) {
      if (!enter(start, tasks, group)) continue;
      for (const Step& step : run_.schedule.body) {
        run_.kernels[step.kind](step.args, context_);
        team.wait();
      }
    }
  }

  Run& run_;
  const Layout& layout_;
  const int rank_, lane_;
  Tables tables_;
  Context context_;
};

}  // namespace

void meet(const Context& context) {
  if (context.barrier) context.barrier->wait();
}

Schedule::Schedule(const Program& program) {
  auto list = [](const std::vector<Instruction>& section, std::vector<Step>& steps) {
    for (const Instruction& instruction : section)
      steps.push_back({static_cast<int>(instruction.args.index()),
                       std::visit([](const auto& args) { return static_cast<const void*>(&args); },
                                  instruction.args)});
  };
  list(program.prologue, prologue);
  list(program.body, body);
  list(program.commit, commit);
  list(program.epilogue, epilogue);
}

Layout plan_layout(const Program& program, int64_t tasks, int threads, int lanes) {
  Layout layout;
  const int64_t bytes = element_bytes(program.settings);
  const int64_t keep = std::max<int64_t>(1, program.keep.elements * bytes);
  const int64_t transient = std::max<int64_t>(1, program.transient.elements * bytes);
  const int64_t rounds = divide_up(tasks, std::max<int64_t>(1, kRoundBytes / keep));
  layout.round = std::max<int64_t>(1, divide_up(tasks, std::max<int64_t>(1, rounds)));

  const double nanoseconds =
      static_cast<double>(tasks) *
      (static_cast<double>(program.body.size()) * 20 + program.body_flops / 50);
  // Threads beyond what the work can feed, or beyond any sensible machine, would only wait.
  const double useful = std::min(kMostThreads, 2 * nanoseconds / kSerialNanoseconds);
  layout.threads = std::max(1, std::min(threads, static_cast<int>(useful)));
  if (nanoseconds < kSerialNanoseconds) layout.threads = 1;

  // Groups: whole tasks in cache, or enough stacked rows to read a shared weight once for many.
  int64_t most = std::max<int64_t>(1, kGroupBytes / transient);
  if (program.any_factored)
    most = std::max(most, divide_up(kStackedRows, std::min(program.settings.support_rows,
                                                           program.settings.query_rows)));
  const int64_t wanted =
      std::max(divide_up(layout.round, most), std::min<int64_t>(layout.threads, layout.round));
  // Without stacking to lose, several groups a thread let the others work while one is late.
  const int64_t each = program.any_factored || layout.threads == 1 ? 1 : kGroupsEach;
  layout.groups =
      std::min(layout.round, divide_up(wanted, layout.threads * each) * layout.threads * each);
  layout.group = divide_up(layout.round, layout.groups);
  layout.lanes = static_cast<int>(std::min<int64_t>(layout.threads, layout.groups));
  if (lanes > 0) layout.lanes = std::min(layout.lanes, lanes);
  const double flops_each = program.body_flops * static_cast<double>(layout.group) /
                            static_cast<double>(std::max<size_t>(1, program.body.size()));
  layout.team = flops_each >= kTeamFlops ? layout.threads / layout.lanes : 1;

  size_t at = 0;
  auto take = [&](size_t size) {
    const size_t offset = at;
    at += lined(size);
    return offset;
  };
  layout.scalars = take(static_cast<size_t>(Scalars::count(program.settings.inner_steps) * bytes));
  layout.shared = take(static_cast<size_t>(program.shared.elements * bytes));
  layout.keep = take(static_cast<size_t>(program.keep.elements * bytes * layout.round));
  layout.transient = lined(static_cast<size_t>(program.transient.elements * bytes * layout.group));
  layout.transients = take(layout.transient * static_cast<size_t>(layout.lanes));
  layout.table = lined(static_cast<size_t>(spaces_of(program)) * 3 * 8);
  layout.tables = take(layout.table * static_cast<size_t>(layout.threads));
  layout.barriers = take(kLine * static_cast<size_t>(layout.lanes));
  layout.scratch = take(scratch_of(program) * static_cast<size_t>(layout.threads));
  layout.total = at;
  return layout;
}

const Kernel* kernels_of(Dtype dtype) {
  const KernelTable& table = kernels();
  return dtype == Dtype::f32 ? table.f32 : table.f64;
}

void execute(const Program& program, const Schedule& schedule, const Kernel* kernels,
             const Call& call) {
  const Layout layout = plan_layout(program, call.tasks, call.threads, call.lanes);
  Run run{program, schedule, call, layout, kernels, Barrier(layout.threads)};
  if (program.settings.dtype == Dtype::f32)
    write_scalars<float>(program, call, run.workspace(layout.scalars));
  else
    write_scalars<double>(program, call, run.workspace(layout.scalars));
  for (int lane = 0; lane < layout.lanes; ++lane)
    new (run.workspace(layout.barriers, kLine, lane)) Barrier(layout.team);
  if (layout.threads == 1) return Worker(run, 0).work();
  const CrewLease crew(layout.threads - 1);
  crew->run([](void* context, int rank) { Worker(*static_cast<Run*>(context), rank).work(); },
            &run);
}

}  // namespace fastmaml
