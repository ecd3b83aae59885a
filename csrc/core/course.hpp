// One call as the threads that work on it see it: a stage that all share (prologue, commit,
// epilogue), and lanes, each with stages of its own, whose groups of tasks go through the body.
//
// Courses are never freed, so that a thread may look at one at any time, however late. What it does
// there for a call it does with a part of a stage in hand, and without one it holds nobody up.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/stage.hpp"

namespace fastmaml {

// What a course is for. Called by threads that have a part, or that finished the last part of a
// stage and so open what follows.
class Work {
 public:
  virtual void run_common(int part, int parts, int rank) = 0;
  virtual void after_common() = 0;
  virtual void run_lane(int lane, int part, int parts, int rank) = 0;
  virtual void after_lane(int lane) = 0;
  // By the caller's thread alone, when it has no part, before each that it takes or waits for.
  virtual void between() = 0;

 protected:
  ~Work() = default;
};

class Course {
 public:
  // By the caller, who is rank 0. `threads` is how many ranks there are, the caller's included.
  bool lease();                                        // false: another call has it
  uint64_t begin(Work& work, int threads, int lanes);  // gives the call's number
  bool all_joined(int workers) const;                  // so many, before the first stage is open
  void run(uint64_t number);                           // works until the call is closed
  void release() { leased_.store(false, std::memory_order_release); }

  // By a worker: a rank of the call that is under way if it has one left, and its number.
  struct Seat {
    int rank = 0;  // 0: none
    uint64_t number = 0;
  };
  Seat take_seat();
  bool has_seats() const;
  void attend(const Seat& seat);

  // By the work.
  void open_common(int parts) {
    common_.open(parts);
    bell_.ring();
  }
  void open_lane(int lane, int parts) {
    lanes_.load(std::memory_order_relaxed)[lane].stage.open(parts);
    bell_.ring();
  }
  // Threads that would share the lane's next stage, at least 1, at most kMostParts.
  int members(int lane) const;
  // No more stages of the lane in this round, or again some.
  void retire(int lane, bool retired) {
    lanes_.load(std::memory_order_relaxed)[lane].retired.store(retired, std::memory_order_relaxed);
  }
  void close() {
    number_.fetch_add(1, std::memory_order_seq_cst);
    bell_.ring();
  }

 private:
  struct Lane {
    Stage stage;
    std::atomic<int> members{0};
    std::atomic<bool> retired{true};
  };
  class Member;

  std::atomic<bool> leased_{false};
  std::atomic<uint64_t> number_{0};             // odd while a call is under way
  std::atomic<uint64_t> seats_{0};              // the call's number | ranks left
  std::atomic<uint64_t> joined_{0};             // the call's number | workers who came
  std::atomic<int> lane_count_{0};              // of this call
  std::atomic<Lane*> lanes_{nullptr};           // the last of the rooms, which grow
  int room_ = 0;                                // lanes that are there
  std::vector<std::unique_ptr<Lane[]>> rooms_;  // all stay, for whoever still looks at one
  Work* work_ = nullptr;
  Stage common_;
  Bell bell_;
};

}  // namespace fastmaml
