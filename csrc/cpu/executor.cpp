#include "cpu/executor.hpp"

#include <algorithm>
#include <exception>
#include <new>

#include "core/crew.hpp"
#include "core/poll.hpp"
#include "cpu/kernels.hpp"
#include "plan/scalars.hpp"

namespace fastmaml {
namespace {

// An instruction is shared from this much work on, and small ones are taken together up to it.
constexpr double kSplitNanoseconds = 3'000, kPieceNanoseconds = 20'000;
// Bytes of a shared section for each part of it.
constexpr int64_t kPartBytes = int64_t{64} << 10;
// Sizes of calls that a plan remembers.
constexpr size_t kMostHabits = 64;

// One rank of a call: its tables of spaces follow it in the workspace.
struct Member {
  bool ready = false;
  int lane = -1;
  int64_t at = -1;  // the task that the tables point at
  int count = 0;    // of spaces
  Context context;
  char** base = nullptr;
  int64_t* capacity = nullptr;
  int64_t* first = nullptr;
};

// What a lane's open stage is about.
struct Lane {
  bool fresh = true;  // no group yet
  int64_t first = 0, tasks = 0;
  size_t step = 0, stop = 0;
  int phase = -1, phases = 0, parts = 1;
};

// What the stages of one call are about. A lane's state is written by the thread that opens its
// next stage; a member's, the tables that one rank reads, by that rank.
class Run final : public Work {
 public:
  Run(const Program& program, const Schedule& schedule, const Layout& layout, const Kernel* kernels,
      const Call& call, Course* course, int threads)
      : program_(program),
        schedule_(schedule),
        layout_(layout),
        kernels_(kernels),
        call_(call),
        course_(course),
        threads_(threads),
        lanes_(std::min(layout.lanes, threads)),
        poll_(call.poll) {
    for (int rank = 0; rank < threads; ++rank) new (&member(rank)) Member;
    for (int lane = 0; lane < lanes_; ++lane) new (&lane_state(lane)) Lane;
  }

  int lanes() const { return lanes_; }

  // On this thread, without stages.
  void alone() {
    Member& me = ready(0);
    section(me, schedule_.prologue, 1, 0, 1);
    for (; start_ < call_.tasks; start_ += layout_.round) {
      open_tasks();
      for (int64_t at = 0; at < tasks_;) {
        const int64_t count = layout_.piece(tasks_ - at, 1);
        enter(me, 0, at, count);
        me.context.team_scratch = me.context.scratch;
        for (size_t step = 0; step < schedule_.body.size() && goes_on(me);) {
          const size_t stop = piece_end(step, count, 1);
          run_steps(me, step, stop);
          step = stop;
        }
        at += count;
      }
      enter(me, 0, 0, tasks_);
      section(me, schedule_.commit, tasks_, 0, 1);
    }
    section(me, schedule_.epilogue, 1, 0, 1);
  }

  // Opens the first stage.
  void begin() {
    stage_ = Shared::prologue;
    schedule_.prologue.empty() ? open_round() : course_->open_common(common_parts(stage_));
  }

  void run_common(int part, int parts, int rank) override {
    Member& me = ready(rank);
    if (stage_ == Shared::prologue) return section(me, schedule_.prologue, 1, part, parts);
    if (stage_ == Shared::epilogue) return section(me, schedule_.epilogue, 1, part, parts);
    enter(me, 0, 0, tasks_);
    section(me, schedule_.commit, tasks_, part, parts);
  }

  void after_common() override {
    if (stage_ == Shared::epilogue || stopped()) return course_->close();
    if (stage_ == Shared::prologue) return open_round();
    start_ += layout_.round;
    if (start_ < call_.tasks) return open_round();
    stage_ = Shared::epilogue;
    if (schedule_.epilogue.empty()) return course_->close();
    course_->open_common(common_parts(stage_));
  }

  void run_lane(int index, int part, int parts, int rank) override {
    const Lane& lane = lane_state(index);
    if (lane.fresh || stopped()) return;
    Member& me = ready(rank);
    enter(me, index, lane.first, lane.tasks);
    me.context.rank = part, me.context.size = parts, me.context.phase = lane.phase;
    me.context.team_scratch = lane.phase < 0
                                  ? me.context.scratch
                                  : workspace(layout_.team_scratch, layout_.scratch_each, index);
    run_steps(me, lane.step, lane.stop);
  }

  void after_lane(int index) override {
    Lane& lane = lane_state(index);
    if (!stopped() && open_next(index, lane)) return;
    course_->retire(index, true);
    if (lanes_left_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    stage_ = Shared::commit;
    if (schedule_.commit.empty() || stopped()) return after_common();
    course_->open_common(common_parts(stage_));
  }

  void between() override { ask(); }

  // What ended the call before its end, if anything did.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  enum class Shared { prologue, commit, epilogue };

  // Once it is so nothing is worth doing: every part is over at once, every lane retires, and the
  // call ends as ever, with all threads out of its memory.
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  // By the caller's thread: what its poll throws stops the call.
  void ask() {
    if (stopped()) return;
    try {
      poll_();
    } catch (...) {
      error_ = std::current_exception();
      stopped_.store(true, std::memory_order_relaxed);
    }
  }
  bool goes_on(const Member& me) {
    if (&me == &member(0)) ask();
    return !stopped();
  }

  char* workspace(size_t offset, size_t each = 0, int index = 0) const {
    return static_cast<char*>(call_.workspace) + offset + each * static_cast<size_t>(index);
  }
  Member& member(int rank) const {
    return *reinterpret_cast<Member*>(workspace(layout_.members, layout_.member, rank));
  }
  Lane& lane_state(int index) const {
    return *reinterpret_cast<Lane*>(workspace(layout_.lane_states, layout_.lane_state, index));
  }

  // The member of a rank, with its tables, which follow it in the workspace.
  Member& ready(int rank) {
    Member& me = member(rank);
    if (me.ready) return me;
    me.ready = true;
    me.count = spaces_of(program_);
    me.base = reinterpret_cast<char**>(&me + 1);
    me.capacity = reinterpret_cast<int64_t*>(me.base + me.count);
    me.first = me.capacity + me.count;
    auto set = [&](int space, const void* pointer, int64_t room) {
      me.base[space] = static_cast<char*>(const_cast<void*>(pointer));
      me.capacity[space] = room;
      me.first[space] = 0;
    };
    set(kTransient, nullptr, layout_.group);
    set(kKeep, workspace(layout_.keep), layout_.round);
    set(kShared, workspace(layout_.shared), 1);
    set(kScalars, workspace(layout_.scalars), 1);
    for_each_space(program_, call_,
                   [&](int space, const void* pointer) { set(space, pointer, 1); });
    me.context.base = me.base, me.context.capacity = me.capacity, me.context.first = me.first;
    me.context.scalars = workspace(layout_.scalars);
    me.context.scratch = workspace(layout_.scratch, layout_.scratch_each, rank);
    return me;
  }

  // Points a member's tables at a lane's memory and at tasks of the round, from `first` on.
  void enter(Member& me, int lane, int64_t first, int64_t tasks) const {
    me.context.tasks = tasks;
    if (me.lane != lane)
      me.lane = lane, me.base[kTransient] = workspace(layout_.transients, layout_.transient, lane);
    if (me.at == start_ + first) return;
    me.at = start_ + first;
    for (int space = kSupportX; space < me.count; ++space) me.first[space] = me.at;
    me.first[kKeep] = first;
  }

  void run_steps(Member& me, size_t begin, size_t end) const {
    for (size_t i = begin; i < end; ++i) {
      const Step& step = schedule_.body[i];
      kernels_[step.kind](step.args, me.context);
    }
  }

  // One part of a section whose instructions are independent.
  void section(Member& me, const std::vector<Step>& steps, int64_t tasks, int part, int parts) {
    me.context.tasks = tasks, me.context.rank = part, me.context.size = parts;
    me.context.phase = -1;
    for (const Step& step : steps) {
      if (!goes_on(me)) return;
      kernels_[step.kind](step.args, me.context);
    }
  }

  // Parts for the threads that may come while the section runs, as its size allows.
  int common_parts(Shared stage) const {
    const int64_t elements =
        stage == Shared::commit ? program_.keep.elements * tasks_ : program_.shared.elements;
    const int64_t parts = 1 + elements * element_bytes(program_.settings) / kPartBytes;
    return static_cast<int>(std::min({parts, int64_t{threads_}, int64_t{Stage::kMostParts}}));
  }

  void open_tasks() {
    tasks_ = std::min(layout_.round, call_.tasks - start_);
    left_.store(tasks_, std::memory_order_relaxed);
  }

  // Every lane's first stage is to take a group, or find that none is left.
  void open_round() {
    open_tasks();
    const int count = lanes_;
    lanes_left_.store(count, std::memory_order_relaxed);
    for (int lane = 0; lane < count; ++lane) {
      lane_state(lane) = Lane{};
      course_->retire(lane, false);
      course_->open_lane(lane, 1);  // once the last is open the call may end, and with it this
    }
  }

  bool next_group(Lane& lane) {
    int64_t left = left_.load(std::memory_order_relaxed), count = 0;
    do {
      if (left == 0) return false;
      count = layout_.piece(left, threads_);
    } while (!left_.compare_exchange_weak(left, left - count, std::memory_order_relaxed));
    lane = Lane{};
    lane.fresh = false, lane.first = tasks_ - left, lane.tasks = count;
    return true;
  }

  // What comes next in a lane: a phase, the rest of its group, another group. False: nothing.
  bool open_next(int index, Lane& lane) {
    if (lane.phase >= 0 && ++lane.phase < lane.phases) {
      course_->open_lane(index, lane.parts);
      return true;
    }
    lane.step = lane.stop;
    if ((lane.fresh || lane.step >= schedule_.body.size()) && !next_group(lane)) return false;
    open_steps(index, lane);
    return true;
  }

  // Whether so many threads share an instruction.
  bool is_shared(const Step& step, int64_t tasks, int members) const {
    const double nanoseconds = step.nanoseconds * static_cast<double>(tasks);
    return members > 1 && (call_.all_threads || nanoseconds >= kSplitNanoseconds);
  }

  // One past the last of the small instructions, from `step` on, that are a piece for one thread.
  size_t piece_end(size_t step, int64_t tasks, int members) const {
    const std::vector<Step>& body = schedule_.body;
    size_t end = std::min(step + 1, body.size());
    double sum = step < body.size() ? body[step].nanoseconds : 0;
    for (; end < body.size() && !is_shared(body[end], tasks, members); ++end)
      if ((sum += body[end].nanoseconds) * static_cast<double>(tasks) > kPieceNanoseconds) break;
    return end;
  }

  // From lane.step on: one large instruction in parts for the lane's threads, or as many small ones
  // as make a piece for one of them.
  void open_steps(int index, Lane& lane) {
    const std::vector<Step>& body = schedule_.body;
    const int members = course_->members(index);
    lane.phase = -1, lane.parts = 1;
    if (lane.step < body.size() && is_shared(body[lane.step], lane.tasks, members)) {
      lane.stop = lane.step + 1, lane.parts = members;
      lane.phases = body[lane.step].phases * static_cast<int>(lane.tasks);
      if (body[lane.step].phases > 1) lane.phase = 0;
    } else {
      lane.stop = piece_end(lane.step, lane.tasks, members);
    }
    course_->open_lane(index, lane.parts);
  }

  const Program& program_;
  const Schedule& schedule_;
  const Layout& layout_;
  const Kernel* const kernels_;
  const Call& call_;
  Course* const course_;
  const int threads_, lanes_;
  // Of the stage that is open.
  Shared stage_ = Shared::prologue;
  int64_t start_ = 0, tasks_ = 0;  // first task of the round, and how many
  std::atomic<int64_t> left_{0};   // of them, for lanes to take
  std::atomic<int> lanes_left_{0};
  std::atomic<bool> stopped_{false};
  // Of the caller's thread.
  Poller poll_;
  std::exception_ptr error_;
};

}  // namespace

size_t member_bytes(const Program& program) {
  const size_t each_space = sizeof(char*) + 2 * sizeof(int64_t);
  return sizeof(Member) + static_cast<size_t>(spaces_of(program)) * each_space;
}
size_t lane_state_bytes() { return sizeof(Lane); }

const Kernel* kernels_of(Dtype dtype) {
  const KernelTable& table = kernels();
  return dtype == Dtype::f32 ? table.f32 : table.f64;
}

void execute(const Program& program, const Schedule& schedule, const Layout& layout,
             const Kernel* kernels, const Call& call, int threads) {
  char* const scalars = static_cast<char*>(call.workspace) + layout.scalars;
  if (program.settings.dtype == Dtype::f32)
    write_scalars<float>(program, call, scalars);
  else
    write_scalars<double>(program, call, scalars);
  Posting posting(threads, call.all_threads);
  Run run(program, schedule, layout, kernels, call, posting.course(), posting.threads());
  if (posting.threads() == 1)
    run.alone();
  else
    posting.run(run, run.lanes(), [&run] { run.begin(); });
  run.rethrow();
}

std::shared_ptr<Habits::Habit> Habits::of(const Program& program, const Schedule& schedule,
                                          int64_t tasks, int threads, int lanes) {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock)  // another thread has it, or had it when this process was forked
    return std::make_shared<Habit>(plan_layout(program, schedule, tasks, threads, lanes));
  const Key key{tasks, threads, lanes};
  if (const auto found = habits_.find(key); found != habits_.end()) return found->second;
  if (habits_.size() >= kMostHabits) habits_.clear();
  return habits_[key] =
             std::make_shared<Habit>(plan_layout(program, schedule, tasks, threads, lanes));
}

}  // namespace fastmaml
