#include "core/course.hpp"

#include <algorithm>

namespace fastmaml {
namespace {

// About 60 microseconds of pauses, then a waiting thread sleeps, so that the one it waits for can
// have its core.
constexpr int kSpins = 4000;
// Looks at the own lane for one at all the others: what is about to be taken there is left alone.
constexpr int kSpinsAtHome = 64;
constexpr int kSeatBits = 32;

}  // namespace

// A thread in one call.
class Course::Member {
 public:
  Member(Course& course, int rank, uint64_t number)
      : course_(course), rank_(rank), number_(number), lanes_(course.lanes_.load()) {
    const int count = course_.lane_count_.load();
    // A seat that was taken as the call ended: there is no lane to look at.
    if (!under_way()) return;
    count_ = count, place_ = rank / count;
    join(rank % count);
    uint64_t joined = course_.joined_.load();
    while (joined >> kSeatBits == (number << kSeatBits) >> kSeatBits &&
           !course_.joined_.compare_exchange_weak(joined, joined + 1)) {
    }
  }

  void work() {
    while (under_way()) {
      if (rank_ == 0) course_.work_->between();
      if (!take_common() && !take_lane(lane_) && !move_on()) wait();
    }
  }

 private:
  bool under_way() const { return course_.number_.load(std::memory_order_seq_cst) == number_; }

  // The counts begin anew with every call, so that nobody need leave as one ends.
  void join(int lane) {
    lane_ = lane;
    lanes_[lane].members.fetch_add(1, std::memory_order_relaxed);
  }

  bool take_common() {
    Stage& stage = course_.common_;
    const int part = stage.take(rank_, [this] { return under_way(); });
    if (part < 0) return false;
    course_.work_->run_common(part, stage.parts(), rank_);
    if (stage.finish()) course_.work_->after_common();
    return true;
  }

  bool take_lane(int lane) {
    Stage& stage = lanes_[lane].stage;
    const int part = stage.take(place_, [this] { return under_way(); });
    if (part < 0) return false;
    course_.work_->run_lane(lane, part, stage.parts(), rank_);
    if (stage.finish()) course_.work_->after_lane(lane);
    return true;
  }

  bool retired(int lane) const { return lanes_[lane].retired.load(std::memory_order_relaxed); }

  // From a lane that has nothing left to the one that has the fewest threads.
  bool move_on() {
    if (!retired(lane_)) return false;
    int to = -1, fewest = 0;
    for (int lane = 0; lane < count_; ++lane) {
      const int there = lanes_[lane].members.load(std::memory_order_relaxed);
      if (!retired(lane) && (to < 0 || there < fewest)) to = lane, fewest = there;
    }
    if (to < 0) return false;
    lanes_[lane_].members.fetch_sub(1, std::memory_order_relaxed);
    join(to);
    return true;
  }

  // Whether there is nothing to do for this thread, here or in any lane.
  bool idle(bool everywhere) const {
    if (!under_way() || course_.common_.has_free_parts()) return false;
    if (lanes_[lane_].stage.has_free_parts()) return false;
    if (!everywhere) return true;
    for (int lane = 0; lane < count_; ++lane)
      if (lanes_[lane].stage.has_free_parts()) return false;
    return true;
  }

  void wait() {
    for (int spins = 1; spins <= kSpins; ++spins) {
      relax();
      if (!idle(false)) return;
      if (spins % kSpinsAtHome == 0 && !idle(true)) return help();
    }
    course_.bell_.sleep([this] { return idle(true); });
    if (idle(false)) help();
  }

  // In a lane where nobody has taken what was free when this thread last looked.
  void help() {
    for (int i = 1; i < count_; ++i)
      if (take_lane((lane_ + i) % count_)) return;
  }

  Course& course_;
  const int rank_;
  const uint64_t number_;
  Lane* const lanes_;
  int count_ = 0, place_ = 0, lane_ = -1;
};

bool Course::lease() {
  bool free = false;
  return !leased_.load(std::memory_order_relaxed) &&
         leased_.compare_exchange_strong(free, true, std::memory_order_acquire);
}

uint64_t Course::begin(Work& work, int threads, int lanes) {
  if (lanes > room_) {
    const int room = std::max(lanes, 2 * room_);
    rooms_.push_back(std::make_unique<Lane[]>(static_cast<size_t>(room)));
    lanes_.store(rooms_.back().get());
    room_ = room;
  }
  Lane* const all = lanes_.load(std::memory_order_relaxed);
  for (int lane = 0; lane < lanes; ++lane) all[lane].members.store(0, std::memory_order_relaxed);
  work_ = &work;
  lane_count_.store(lanes);
  const uint64_t number = number_.load(std::memory_order_relaxed) + 1;
  joined_.store(number << kSeatBits);
  seats_.store(number << kSeatBits | static_cast<uint32_t>(threads - 1));
  number_.store(number);
  return number;
}

bool Course::all_joined(int workers) const {
  return static_cast<uint32_t>(joined_.load()) == static_cast<uint32_t>(workers);
}

void Course::run(uint64_t number) { Member(*this, 0, number).work(); }

Course::Seat Course::take_seat() {
  const uint64_t number = number_.load();
  uint64_t seats = seats_.load();
  for (;;) {
    const auto left = static_cast<uint32_t>(seats);
    if (number % 2 == 0 || (number << kSeatBits | left) != seats || left == 0) return {};
    if (seats_.compare_exchange_weak(seats, seats - 1)) return {static_cast<int>(left), number};
  }
}

bool Course::has_seats() const {
  return number_.load(std::memory_order_relaxed) % 2 == 1 &&
         static_cast<uint32_t>(seats_.load(std::memory_order_relaxed)) > 0;
}

void Course::attend(const Seat& seat) { Member(*this, seat.rank, seat.number).work(); }

int Course::members(int lane) const {
  const int count = lanes_.load(std::memory_order_relaxed)[lane].members.load();
  return std::clamp(count, 1, Stage::kMostParts);
}

}  // namespace fastmaml
