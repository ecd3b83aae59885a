#include "core/crew.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "core/processors.hpp"

namespace fastmaml {
namespace {

// About 100 and 500 microseconds of pauses. A worker that must be woken comes some 50 microseconds
// late; the long wait outlasts drawing tasks and an optimizer's step of the smallest networks.
constexpr int kShortSpins = 6000, kLongSpins = 30000;
// After a long wait for nothing, or where others want the core, so many short ones come first.
constexpr int kShortWaits = 100, kSpinsALook = 64;
constexpr auto kAbsence = std::chrono::microseconds(200);
constexpr uint64_t kSlice = 200'000;  // nanoseconds
// Calls under way at a time that can have workers.
constexpr size_t kPlaces = 64;

// Asks for short time slices (Linux 6.12 and newer): a worker that wakes may then run at once where
// another thread is in the middle of a long slice, as torch's own workers are, which spin for
// milliseconds after each of torch's parallel regions. Its share of the core stays what it was.
void ask_for_short_slices() {
#ifdef SYS_sched_setattr
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes{};
  attributes.size = sizeof attributes;
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return;
  if (attributes.policy != SCHED_OTHER) return;
  attributes.runtime = kSlice;
  syscall(SYS_sched_setattr, 0, &attributes, 0);
#endif
}

// How a worker waits awake, and for how long.
class Patience {
 public:
  // Whether `done` came true before the worker had waited long enough.
  template <class Done>
  bool wait(Done&& done) {
    using Clock = std::chrono::steady_clock;
    const bool is_long = short_waits_ == 0;
    bool came = false, crowded = false;
    Clock::time_point last = Clock::now();
    for (int spins = is_long ? kLongSpins : kShortSpins; spins > 0 && !came; --spins) {
      relax();
      came = done();
      if (spins % kSpinsALook != 0 && !came) continue;
      // Who was not here for so long had to leave the core to somebody else.
      const Clock::time_point now = Clock::now();
      crowded = crowded || now - last > kAbsence;
      last = now;
    }
    if (crowded || (is_long && !came))
      short_waits_ = kShortWaits;
    else if (!is_long)
      --short_waits_;
    return came;
  }

 private:
  int short_waits_ = 0;
};

class Crew {
 public:
  std::array<Course, kPlaces> board;

  // How many of `wanted` workers one more call may get. Calls share what there is, unless `all` of
  // its workers are to be its own.
  int join(int wanted, bool all) {
    const int sum = wanted_.fetch_add(wanted) + wanted;
    if (workers_.load(std::memory_order_acquire) < sum)
      start(all ? sum : std::max(wanted, std::min(usable_processors() - 1, sum)));
    const int there = workers_.load(std::memory_order_acquire);
    const int got = all && there < sum ? 0 : std::min(wanted, there);
    wanted_.fetch_sub(wanted - got);
    return got;
  }
  void leave(int got) { wanted_.fetch_sub(got); }

  // Something was posted: workers who look at the board see it, else one is woken, who wakes
  // others.
  void post() {
    posts_.fetch_add(1, std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) > 0) posts_.notify_one();
  }

 private:
  void start(int many) {
    // Signals are for the program's own threads, but for those that tell of a fault here.
    sigset_t all, before;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (workers_.load(std::memory_order_relaxed) < many) {
        std::thread([this] { loop(); }).detach();
        workers_.fetch_add(1, std::memory_order_release);
      }
    } catch (const std::exception&) {
      // The system starts no more threads: calls make do with what there is.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  [[noreturn]] void loop() {
    ask_for_short_slices();
    Patience patience;
    for (;;) {
      const uint32_t seen = posts_.load(std::memory_order_seq_cst);
      if (attend_any()) continue;
      if (patience.wait([&] { return posts_.load(std::memory_order_relaxed) != seen; })) continue;
      asleep_.fetch_add(1, std::memory_order_seq_cst);
      posts_.wait(seen, std::memory_order_seq_cst);
      asleep_.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  bool attend_any() {
    bool any = false;
    for (Course& course : board) {
      const Course::Seat seat = course.take_seat();
      if (!seat.rank) continue;
      if (asleep_.load(std::memory_order_relaxed) > 0 &&
          std::ranges::any_of(board, [](const Course& other) { return other.has_seats(); }))
        posts_.notify_one();
      course.attend(seat);
      any = true;
    }
    return any;
  }

  std::mutex mutex_;  // of those who start workers
  std::atomic<int> workers_{0}, asleep_{0};
  std::atomic<int> wanted_{0};  // by the calls under way
  std::atomic<uint32_t> posts_{0};
};

std::atomic<Crew*> g_crew{nullptr};

// In a forked child the parent's workers are gone and its mutex may be held for ever: start anew.
// The old crew is left alone.
void forget_crew() { g_crew.store(new Crew); }

Crew& crew() {
  static std::once_flag once;
  std::call_once(once, [] {
    g_crew.store(new Crew);  // never destroyed: workers may outlive static destruction
    pthread_atfork(nullptr, nullptr, forget_crew);
  });
  return *g_crew.load();
}

}  // namespace

Posting::Posting(int threads, bool all) : threads_(1), all_(all) {
  if (threads < 2) return;
  Crew& everyone = crew();
  const auto free =
      std::ranges::find_if(everyone.board, [](Course& course) { return course.lease(); });
  if (free == everyone.board.end()) return;
  course_ = &*free;
  threads_ = 1 + everyone.join(threads - 1, all);
}

Posting::~Posting() {
  if (!course_) return;
  course_->release();
  crew().leave(threads_ - 1);
}

void Posting::call_workers() { crew().post(); }

}  // namespace fastmaml
