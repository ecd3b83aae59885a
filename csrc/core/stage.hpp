// Work in parts that whoever is there takes, and a bell for those who found none.
//
// A thread that looks at a stage holds nothing up: it may be taken off its core for any time and
// find, when it comes back, that the stage it saw is over. Only who has taken a part is waited for.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <thread>

namespace fastmaml {

// Lets the core's sibling run while this one waits.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#else
  std::this_thread::yield();
#endif
}

// Stages follow each other: each is opened by the thread that finished the last part of the one
// before, or found it never opened. The word holds all that a taker compares: the stage's number,
// how many parts it has, and which are taken; so a part of another stage is never taken for one of
// this. What a stage's parts need to know may be plain memory: it is written before `open` and
// stays until all parts are finished.
class alignas(64) Stage {
 public:
  static constexpr int kMostParts = 24;

  void open(int parts) {
    left_.store(parts, std::memory_order_relaxed);
    const uint64_t number = (word_.load(std::memory_order_relaxed) >> kNumberAt) + 1;
    // In one order with the bell's count of sleepers: who goes to sleep sees this, or is seen.
    word_.store(number << kNumberAt | static_cast<uint64_t>(parts) << kMostParts,
                std::memory_order_seq_cst);
  }

  // Takes a part, `wanted` (modulo the parts) if nobody has it, and gives its index; -1: none is
  // left. `valid` is asked in between: what it reads is true of the stage whose part is taken.
  template <class Valid>
  int take(int wanted, Valid&& valid) {
    uint64_t word = word_.load(std::memory_order_acquire);
    for (;;) {
      const uint32_t free = free_of(word);
      if (!free || !valid()) return -1;
      const int mine = wanted % parts_of(word);
      const int part = free >> mine & 1 ? mine : std::countr_zero(free);
      if (word_.compare_exchange_weak(word, word | uint64_t{1} << part, std::memory_order_acq_rel,
                                      std::memory_order_acquire))
        return part;
    }
  }

  // Of the stage that the caller has a part of.
  int parts() const { return parts_of(word_.load(std::memory_order_relaxed)); }
  // Whether the caller's was the last part: it then opens what follows.
  bool finish() { return left_.fetch_sub(1, std::memory_order_acq_rel) == 1; }
  bool has_free_parts() const { return free_of(word_.load(std::memory_order_seq_cst)) != 0; }

 private:
  static constexpr int kPartsBits = 5, kNumberAt = kMostParts + kPartsBits;
  static_assert(kMostParts < 1 << kPartsBits);

  static int parts_of(uint64_t word) {
    return static_cast<int>(word >> kMostParts & ((1 << kPartsBits) - 1));
  }
  static uint32_t free_of(uint64_t word) {
    return ~static_cast<uint32_t>(word) & ((uint32_t{1} << parts_of(word)) - 1);
  }

  std::atomic<uint64_t> word_{0};  // no parts
  std::atomic<int> left_{0};       // parts that are not finished
};

// What threads sleep by that have waited long.
class Bell {
 public:
  // After whatever the sleepers wait for has been written, in sequentially consistent order.
  void ring() {
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    rings_.fetch_add(1, std::memory_order_seq_cst);
    rings_.notify_all();
  }
  // Until it rings, unless `idle` does not hold any more.
  template <class Idle>
  void sleep(Idle&& idle) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t rings = rings_.load(std::memory_order_seq_cst);
    if (idle()) rings_.wait(rings, std::memory_order_acquire);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  std::atomic<uint32_t> rings_{0};
  std::atomic<int> sleepers_{0};
};

}  // namespace fastmaml
