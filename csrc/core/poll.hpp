// How the caller of something long ends it before its end.
#pragma once

#include <time.h>

#include <cstdint>
#include <functional>

namespace fastmaml {

// What is called now and then, on the caller's thread, while a plan is written or run. What it
// throws ends that, on all threads, and comes out of it; outputs then hold anything.
struct Poll {
  std::function<void()> ask;
  double seconds = 0.05;  // between two calls of it, about
};

class Poller {
 public:
  // The poll must outlive it.
  explicit Poller(const Poll& poll)
      : poll_(poll), period_(static_cast<int64_t>(1e9 * poll.seconds)) {
    if (poll_.ask) next_ = now() + period_;
  }

  // Cheap enough to be called after every 20 microseconds of work. Throws what `ask` throws.
  void operator()() {
    if (!poll_.ask || now() < next_) return;
    poll_.ask();
    next_ = now() + period_;
  }

 private:
  // In nanoseconds, to some milliseconds: a few instructions, where an exact clock takes 20 ns.
  static int64_t now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec;
  }

  const Poll& poll_;
  const int64_t period_;
  int64_t next_ = 0;
};

}  // namespace fastmaml
