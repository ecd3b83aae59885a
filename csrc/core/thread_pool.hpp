// Worker threads that outlive a call, and the barrier they meet at.
//
// `run` checks a crew of workers out of a list, so that several Python threads may run at once;
// crews are kept and reused. Idle workers spin for some tens of microseconds, then sleep. A forked
// child starts with an empty list: its parent's workers do not exist in it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace fastmaml {

// Lets the core's sibling run while this one waits.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Meeting point of `size` threads, any number of times. Waiters spin, and give their core away
// when there are more threads than cores.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> round_{0};
};

class Crew {
 public:
  using Work = void (*)(void* context, int rank);

  explicit Crew(int workers);
  ~Crew();
  int workers() const { return static_cast<int>(threads_.size()); }
  void run(Work work, void* context);  // rank 0 is the caller; returns when all have

 private:
  void loop(int rank);
  void dismiss();

  std::atomic<uint32_t> ticket_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
  Work work_ = nullptr;
  void* context_ = nullptr;
  std::vector<std::thread> threads_;
};

// A crew of `workers` workers, for the life of this object.
class CrewLease {
 public:
  explicit CrewLease(int workers);
  ~CrewLease();
  Crew* operator->() const { return crew_.get(); }

 private:
  std::unique_ptr<Crew> crew_;
};

}  // namespace fastmaml
