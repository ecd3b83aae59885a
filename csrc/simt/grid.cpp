#include "simt/grid.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "simt/fiber.hpp"

namespace simt {
namespace {

constexpr int kLanes = 32, kExchange = 32;
constexpr unsigned char kPoison = 0xff;                         // as a float or double, a NaN
constexpr size_t kMostShared = 256 * 1024, kSlack = 64 * 1024;  // slack: room for guards

enum class State { ready, at_barrier, at_warp, done };

struct Copy {
  char* to;
  const char* from;
  int bytes;
  bool valid;
};

struct Lane {
  Fiber fiber;
  Thread thread;
  State state = State::done;
  Where where;
  unsigned mask = 0;    // of the warp operation it waits in
  unsigned parity = 0;  // of its next warp operation
  std::vector<Copy> copies;
  std::vector<size_t> groups;  // ends of committed groups in `copies`
};

// Two turns' worth, so that a slow lane still reads what a fast one has left behind.
struct Warp {
  unsigned char values[2][kLanes][kExchange];
  unsigned arrived[2] = {0, 0};
};

struct Guard {
  const char* from;
  int64_t bytes;
};

std::string place(const Where& where) {
  std::ostringstream out;
  out << where.file_name() << ":" << where.line();
  return out.str();
}

// The blocks of one launch.
class Grid {
 public:
  void run(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body);
  void barrier(Where where) {
    current_->where = where, current_->state = State::at_barrier;
    current_->fiber.yield();
  }
  void meet(unsigned mask, const void* value, size_t bytes, Where where);
  void read(int from, void* value, size_t bytes) const {
    const Warp& warp = warps_[current_->thread.thread.x / kLanes];
    std::memcpy(value, warp.values[current_->parity ^ 1][from], bytes);
  }

  Lane* current_ = nullptr;
  Order order_ = Order::ascending;
  std::mt19937_64 random_{0};
  std::vector<char> shared_;

  // Arrays are cut anew: what was cut before the last barrier is no more.
  void begin_carve() {
    if (carved_ == epoch_) return;
    check_guards();
    guards_.clear();
    carved_ = epoch_;
  }
  // The first thread that cuts an array marks its end for all.
  void guard(char* from, int64_t bytes) {
    for (const Guard& known : guards_)
      if (known.from == from && known.bytes == bytes) return;
    std::memset(from, kPoison, static_cast<size_t>(bytes));
    guards_.push_back({from, bytes});
  }

 private:
  void run_block(Index at, const std::function<void()>& body);
  void take_turns();
  bool release();
  [[noreturn]] void stuck();
  void check_guards();
  void fail(const std::string& text) {
    if (failure_.empty()) failure_ = text;
  }
  template <class Number>
  std::vector<Number> turns(Number count) {
    std::vector<Number> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), Number(0));
    if (order_ == Order::descending) std::reverse(order.begin(), order.end());
    if (order_ == Order::shuffled) std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Warp> warps_;
  std::vector<Guard> guards_;
  uint64_t epoch_ = 0, carved_ = 0;  // barriers so far; when arrays were last cut
  int threads_ = 0;
  size_t shared_bytes_ = 0;
  std::string failure_;
};

Grid& grid() {
  static thread_local Grid instance;
  return instance;
}

void Grid::run(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body) {
  threads_ = static_cast<int>(block.x);
  if (block.y != 1 || block.z != 1 || threads_ < 1 || threads_ > 1024)
    throw std::runtime_error("simt: a block must be a row of 1 to 1024 threads");
  while (lanes_.size() < static_cast<size_t>(threads_)) lanes_.push_back(std::make_unique<Lane>());
  warps_.resize(static_cast<size_t>((threads_ + kLanes - 1) / kLanes));
  for (int i = 0; i < threads_; ++i) {
    lanes_[i]->thread.thread = {static_cast<unsigned>(i), 0, 0};
    lanes_[i]->thread.block_size = block, lanes_[i]->thread.grid_size = grid;
  }
  shared_bytes_ = shared_bytes;
  shared_.resize(kMostShared + kSlack);
  for (unsigned y : turns(grid.y))
    for (unsigned x : turns(grid.x)) run_block({x, y, 0}, body);
}

void Grid::run_block(Index at, const std::function<void()>& body) {
  std::memset(shared_.data(), kPoison, shared_bytes_ + kSlack);
  guards_.clear(), failure_.clear();
  ++epoch_;
  for (Warp& warp : warps_) warp.arrived[0] = warp.arrived[1] = 0;
  for (int i = 0; i < threads_; ++i) {
    Lane& lane = *lanes_[i];
    lane.thread.block = at, lane.parity = 0;
    lane.copies.clear(), lane.groups.clear();
  }
  for (int i : turns(threads_)) {
    Lane& lane = *lanes_[i];
    current_ = &lane, lane.state = State::ready;
    lane.fiber.start(body);
    if (lane.fiber.done()) lane.state = State::done;
  }
  take_turns();
  check_guards();
  current_ = nullptr;
  if (!failure_.empty()) throw std::runtime_error("simt: " + failure_);
}

void Grid::take_turns() {
  for (;;) {
    bool any = false, all_done = true;
    for (int i : turns(threads_)) {
      Lane& lane = *lanes_[i];
      if (lane.state == State::ready) {
        any = true, current_ = &lane;
        lane.fiber.resume();
        if (lane.fiber.done()) lane.state = State::done;
      }
      all_done = all_done && lane.state == State::done;
    }
    if (all_done) return;
    if (!any && !release()) stuck();
  }
}

// Lets the threads go on that wait for a barrier which all have reached.
bool Grid::release() {
  for (int i = 0; i < threads_; ++i)
    if (lanes_[i]->state != State::at_barrier) return false;
  for (int i = 0; i < threads_; ++i) {
    const Where& here = lanes_[i]->where;
    if (here.line() != lanes_[0]->where.line() ||
        std::strcmp(here.file_name(), lanes_[0]->where.file_name()) != 0)
      fail("threads of one block wait at different barriers: " + place(lanes_[0]->where) + " and " +
           place(here));
    lanes_[i]->state = State::ready;
  }
  ++epoch_;
  return true;
}

// Nobody can go on: says who waits where, and leaves the block.
void Grid::stuck() {
  std::ostringstream out;
  out << "a block does not come to an end:";
  int ended = 0, named = 0;
  for (int i = 0; i < threads_; ++i) {
    Lane& lane = *lanes_[i];
    if (lane.state == State::done) ++ended;
    if (lane.state != State::done && named < 3)
      out << " thread " << i << " waits at " << place(lane.where)
          << (lane.state == State::at_warp ? " for its warp;" : " for its block;"),
          ++named;
    if (lane.state != State::done) lane.fiber.abandon();
    lane.state = State::done;
  }
  out << " " << ended << " of " << threads_ << " threads have ended";
  current_ = nullptr;
  throw std::runtime_error("simt: " + out.str());
}

void Grid::meet(unsigned mask, const void* value, size_t bytes, Where where) {
  Lane& lane = *current_;
  const int me = static_cast<int>(lane.thread.thread.x) % kLanes;
  const int first = static_cast<int>(lane.thread.thread.x) - me;
  Warp& warp = warps_[static_cast<size_t>(first / kLanes)];
  if ((mask >> me & 1) == 0)
    fail("a lane calls a warp operation whose mask leaves it out, at " + place(where));
  const unsigned turn = lane.parity;
  lane.parity ^= 1;
  if (value) std::memcpy(warp.values[turn][me], value, bytes);
  warp.arrived[turn] |= 1u << me;
  lane.mask = mask, lane.where = where;
  if (warp.arrived[turn] != mask) {
    lane.state = State::at_warp;
    lane.fiber.yield();
    return;
  }
  warp.arrived[turn] = 0;
  for (int other = 0; other < kLanes && first + other < threads_; ++other) {
    Lane& waiting = *lanes_[static_cast<size_t>(first + other)];
    if (waiting.state != State::at_warp || (mask >> other & 1) == 0) continue;
    if (waiting.mask != mask)
      fail("lanes of one warp operation name different masks, at " + place(where) + " and " +
           place(waiting.where));
    waiting.state = State::ready;
  }
}

void Grid::check_guards() {
  for (const Guard& guard : guards_)
    for (int64_t i = 0; i < guard.bytes; ++i)
      if (static_cast<unsigned char>(guard.from[i]) != kPoison)
        return fail("a block wrote past the end of a shared array, at byte " +
                    std::to_string(guard.from + i - shared_.data()));
  for (size_t i = 0; i < kSlack; ++i)
    if (guards_.empty() && static_cast<unsigned char>(shared_[shared_bytes_ + i]) != kPoison)
      return fail("a block wrote past the end of its shared memory");
}

}  // namespace

const Thread& self() { return grid().current_->thread; }
int lane() { return static_cast<int>(grid().current_->thread.thread.x) % kLanes; }
void block_barrier(Where where) { grid().barrier(where); }
void warp_meet(unsigned mask, const void* value, size_t bytes, Where where) {
  grid().meet(mask, value, bytes, where);
}
void warp_read(int lane, void* value, size_t bytes) { grid().read(lane, value, bytes); }
char* shared_memory() { return grid().shared_.data(); }

void begin_carve() { grid().begin_carve(); }
void guard(char* from, int64_t bytes) { grid().guard(from, bytes); }

void copy_async(void* to, const void* from, int bytes, bool valid, Where) {
  std::memset(to, kPoison, static_cast<size_t>(bytes));
  grid().current_->copies.push_back(
      {static_cast<char*>(to), static_cast<const char*>(from), bytes, valid});
}

void copy_commit() {
  Lane& lane = *grid().current_;
  lane.groups.push_back(lane.copies.size());
}

void copy_wait(int pending) {
  Lane& lane = *grid().current_;
  if (static_cast<int>(lane.groups.size()) <= pending) return;
  const size_t finished = lane.groups.size() - static_cast<size_t>(pending);
  const size_t end = lane.groups[finished - 1];
  for (size_t i = 0; i < end; ++i) {
    const Copy& copy = lane.copies[i];
    if (copy.valid)
      std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
    else
      std::memset(copy.to, 0, static_cast<size_t>(copy.bytes));
  }
  lane.copies.erase(lane.copies.begin(), lane.copies.begin() + static_cast<std::ptrdiff_t>(end));
  lane.groups.erase(lane.groups.begin(),
                    lane.groups.begin() + static_cast<std::ptrdiff_t>(finished));
  for (size_t& group : lane.groups) group -= end;
}

void set_order(Order order, uint64_t seed) {
  grid().order_ = order;
  grid().random_.seed(seed);
}

void run_grid(Index grid_size, Index block, size_t shared_bytes,
              const std::function<void()>& body) {
  grid().run(grid_size, block, shared_bytes, body);
}

}  // namespace simt
