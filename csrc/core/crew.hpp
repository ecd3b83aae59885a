// The process's worker threads, and the board where calls ask for them.
//
// A call begins on its caller, who posts a course; workers that are awake, or wake in time, take
// part in what is left of it. Nobody waits for one who has not begun. Idle workers look at the
// board for a while, then sleep. They may use the processors that the thread might which needed
// them first. A forked child starts with none: its parent's workers do not exist in it.
#pragma once

#include <thread>

#include "core/course.hpp"

namespace fastmaml {

// A place on the board for one call, with the workers it may get.
class Posting {
 public:
  // At most `threads`, the caller's included; fewer where the system starts no more, and 1 while as
  // many calls are under way as the board has places. `all`: the call begins when all have come.
  explicit Posting(int threads, bool all = false);
  ~Posting();
  Posting(const Posting&) = delete;
  Posting& operator=(const Posting&) = delete;
  int threads() const { return threads_; }

  // Runs `work`, whose first stage is opened by `start`, on this thread and whoever joins.
  template <class Start>
  void run(Work& work, int lanes, Start&& start) {
    const uint64_t number = course_->begin(work, threads_, lanes);
    if (all_) {
      call_workers();
      while (!course_->all_joined(threads_ - 1)) std::this_thread::yield();
      start();
    } else {
      start();
      call_workers();
    }
    course_->run(number);
  }
  Course* course() const { return course_; }  // none where nobody else can come

 private:
  void call_workers();

  Course* course_ = nullptr;
  int threads_;
  bool all_;
};

}  // namespace fastmaml
