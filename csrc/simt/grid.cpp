#include "simt/grid.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "simt/fiber.hpp"
#include "simt/watch.hpp"

namespace simt {
namespace {

constexpr int kLanes = 32, kExchange = 32;
constexpr unsigned char kPoison = 0xff;  // as a float or double, a NaN
constexpr size_t kSlack = 64 * 1024;     // of kSharedSpace: room for gaps

enum class State { ready, at_barrier, at_warp, done };

// What the lanes of one warp operation handed in.
struct Exchange {
  unsigned char values[kLanes][kExchange];
};

struct Lane {
  Fiber fiber;
  Thread thread;
  State state = State::done;
  Where where;
  unsigned mask = 0;  // of the warp operation it waits in
  unsigned char offered[kExchange];
  std::shared_ptr<const Exchange> received;  // of its last warp operation
  std::vector<AsyncCopy> copies;
  std::vector<size_t> groups;  // ends of committed groups in `copies`
};

// Of shared memory, and the bytes after it that no array owns.
struct Array {
  char* from;
  int64_t bytes, gap;
  bool operator==(const Array&) const = default;
};

Watcher* g_watcher = nullptr;
constinit thread_local Running t_running;

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
    std::memcpy(value, current_->received->values[from], bytes);
  }

  void begin_carve();
  void add_arena(const Array& arena);
  void add_array(const Array& array, const char* end);
  [[noreturn]] void stop(std::string text) {
    fail(std::move(text));
    stopped_ = true;
    for (;;) current_->fiber.yield();
  }

  Lane* current_ = nullptr;
  Order order_ = Order::ascending;
  std::mt19937_64 random_{0};
  std::vector<char> shared_;

 private:
  void run_block(Index at, const std::function<void()>& body);
  void take_turns();
  bool release();
  void turn(Lane& lane, const std::function<void()>* body);
  [[noreturn]] void stuck();
  [[noreturn]] void leave(const std::string& text);
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
  std::vector<unsigned> arrived_;  // lanes of each warp that wait in a warp operation
  int threads_ = 0;
  size_t shared_bytes_ = 0;
  std::vector<Array> arrays_, arenas_;
  uint64_t epoch_ = 0, carved_ = 0;  // barriers so far; when arrays were last cut
  std::string failure_;
  bool stopped_ = false;
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
  for (int i = 0; i < threads_; ++i) {
    lanes_[i]->thread.thread = {static_cast<unsigned>(i), 0, 0};
    lanes_[i]->thread.block_size = block, lanes_[i]->thread.grid_size = grid;
  }
  shared_bytes_ = shared_bytes;
  shared_.resize(kSharedSpace);
  if (g_watcher) g_watcher->begin_launch();
  for (unsigned y : turns(grid.y))
    for (unsigned x : turns(grid.x)) run_block({x, y, 0}, body);
}

void Grid::run_block(Index at, const std::function<void()>& body) {
  std::memset(shared_.data(), kPoison, shared_bytes_ + kSlack);
  arrays_.clear(), arenas_.clear(), failure_.clear(), stopped_ = false;
  ++epoch_;
  if (g_watcher) g_watcher->begin_block();
  arrived_.assign(static_cast<size_t>((threads_ + kLanes - 1) / kLanes), 0);
  for (int i = 0; i < threads_; ++i) {
    Lane& lane = *lanes_[i];
    lane.thread.block = at;
    lane.copies.clear(), lane.groups.clear();
  }
  for (int i : turns(threads_)) {
    lanes_[i]->state = State::ready;
    turn(*lanes_[i], &body);
  }
  take_turns();
  check_guards();
  current_ = nullptr;
  if (!failure_.empty()) throw std::runtime_error("simt: " + failure_);
}

// Until the thread waits, ends or stops the block.
void Grid::turn(Lane& lane, const std::function<void()>* body) {
  current_ = &lane;
  const char* stack = lane.fiber.stack();
  t_running = {&lane.thread, stack, stack + Fiber::stack_bytes()};
  body ? lane.fiber.start(*body) : lane.fiber.resume();
  t_running = {};
  if (lane.fiber.done()) lane.state = State::done;
  if (stopped_) leave(failure_);
}

void Grid::take_turns() {
  for (;;) {
    bool any = false, all_done = true;
    for (int i : turns(threads_)) {
      Lane& lane = *lanes_[i];
      if (lane.state == State::ready) {
        any = true;
        turn(lane, nullptr);
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
  if (g_watcher) g_watcher->barrier();
  return true;
}

// Nobody can go on: says who waits where, and leaves the block.
void Grid::stuck() {
  std::ostringstream out;
  if (!failure_.empty()) out << failure_ << "; ";
  out << "a block does not come to an end:";
  int ended = 0, named = 0;
  for (int i = 0; i < threads_; ++i) {
    Lane& lane = *lanes_[i];
    if (lane.state == State::done) ++ended;
    if (lane.state != State::done && named < 3)
      out << " thread " << i << " waits at " << place(lane.where)
          << (lane.state == State::at_warp ? " for its warp;" : " for its block;"),
          ++named;
  }
  out << " " << ended << " of " << threads_ << " threads have ended";
  leave(out.str());
}

void Grid::leave(const std::string& text) {
  for (int i = 0; i < threads_; ++i) {
    if (!lanes_[i]->fiber.done()) lanes_[i]->fiber.abandon();
    lanes_[i]->state = State::done;
  }
  current_ = nullptr;
  throw std::runtime_error("simt: " + text);
}

void Grid::meet(unsigned mask, const void* value, size_t bytes, Where where) {
  Lane& lane = *current_;
  const int me = static_cast<int>(lane.thread.thread.x) % kLanes;
  const int first = static_cast<int>(lane.thread.thread.x) - me;
  unsigned& arrived = arrived_[static_cast<size_t>(first / kLanes)];
  if ((mask >> me & 1) == 0)
    fail("a lane calls a warp operation whose mask leaves it out, at " + place(where));
  if (value) std::memcpy(lane.offered, value, bytes);
  arrived |= 1u << me;
  lane.mask = mask, lane.where = where;
  if ((arrived & mask) != mask) {
    lane.state = State::at_warp;
    lane.fiber.yield();
    return;
  }
  arrived &= ~(mask | 1u << me);
  // Shuffles exchange values but, unlike __syncwarp, order no memory.
  if (g_watcher && !value) g_watcher->warp_barrier(static_cast<unsigned>(first / kLanes), mask);
  const auto exchange = std::make_shared<Exchange>();
  std::memset(exchange->values, kPoison, sizeof exchange->values);
  lane.received = exchange;
  for (int other = 0; other < kLanes && first + other < threads_; ++other) {
    Lane& one = *lanes_[static_cast<size_t>(first + other)];
    if ((mask >> other & 1) == 0) continue;
    if (one.mask != mask)
      fail("lanes of one warp operation name different masks, at " + place(where) + " and " +
           place(one.where));
    std::memcpy(exchange->values[other], one.offered, kExchange);
    one.received = exchange, one.state = State::ready;
  }
}

// Arrays are cut anew: what was cut before the last barrier is no more.
void Grid::begin_carve() {
  if (carved_ == epoch_) return;
  check_guards();
  arrays_.clear();
  carved_ = epoch_;
  if (!g_watcher) return;
  g_watcher->begin_carve();
  for (const Array& arena : arenas_) g_watcher->array(arena.from, arena.bytes);
}

void Grid::add_arena(const Array& arena) {
  if (std::find(arenas_.begin(), arenas_.end(), arena) != arenas_.end()) return;
  arenas_.push_back(arena);
  if (g_watcher) g_watcher->array(arena.from, arena.bytes);
}

// Every thread cuts the same arrays; the first marks their ends for all.
void Grid::add_array(const Array& array, const char* end) {
  if (std::find(arrays_.begin(), arrays_.end(), array) != arrays_.end()) return;
  const auto used = static_cast<size_t>(end - shared_.data());
  if (used > shared_bytes_)
    stop("the arrays of a block take " + std::to_string(used) + " bytes of shared memory, asked " +
         "for were " + std::to_string(shared_bytes_));
  std::memset(array.from + array.bytes, kPoison, static_cast<size_t>(array.gap));
  arrays_.push_back(array);
  if (g_watcher) g_watcher->array(array.from, array.bytes);
}

void Grid::check_guards() {
  for (const Array& array : arrays_)
    for (int64_t i = array.bytes; i < array.bytes + array.gap; ++i)
      if (static_cast<unsigned char>(array.from[i]) != kPoison)
        return fail("a block wrote past the end of a shared array, at byte " + std::to_string(i) +
                    " of one of " + std::to_string(array.bytes));
  // All are poison where the first is, and each is what the one before is: memcmp is quick.
  const auto* slack = reinterpret_cast<const unsigned char*>(shared_.data() + shared_bytes_);
  if (arrays_.empty() && (slack[0] != kPoison || std::memcmp(slack, slack + 1, kSlack - 1) != 0))
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

void fence() {
  if (g_watcher) g_watcher->fence();
}

void begin_carve() { grid().begin_carve(); }
void array(char* from, int64_t bytes, int64_t gap, const char* end) {
  grid().add_array({from, bytes, gap}, end);
}
void arena(char* from, int64_t bytes) { grid().add_arena({from, bytes, 0}); }

void copy_async(void* to, const void* from, int bytes, bool valid, Where where) {
  const auto in_shared = [](const void* p) {
    const auto at = reinterpret_cast<uintptr_t>(p);
    const auto first = reinterpret_cast<uintptr_t>(shared_memory());
    return at >= first && at < first + kSharedSpace;
  };
  const auto misaligned = [&](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) != 0;
  };
  const char* what = !in_shared(to)     ? "target is not shared memory"
                     : in_shared(from)  ? "source is not global memory"
                     : misaligned(to)   ? "target is not aligned to them"
                     : misaligned(from) ? "source is not aligned to them"
                                        : nullptr;
  if (what)
    stop("a copy of " + std::to_string(bytes) + " bytes whose " + what + ", at " + place(where));
  const AsyncCopy copy{static_cast<char*>(to), static_cast<const char*>(from), bytes, valid,
                       __builtin_return_address(0)};
  if (g_watcher) g_watcher->issued(copy);
  std::memset(to, kPoison, static_cast<size_t>(bytes));
  grid().current_->copies.push_back(copy);
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
    const AsyncCopy& copy = lane.copies[i];
    if (g_watcher) g_watcher->landed(copy);
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

void watch(Watcher* watcher) { g_watcher = watcher; }
bool watched() { return g_watcher != nullptr; }
void allow(std::vector<Region> regions) {
  if (g_watcher) g_watcher->allow(std::move(regions));
}
const Running& running() { return t_running; }
void stop(std::string text) { grid().stop(std::move(text)); }

void run_grid(Index grid_size, Index block, size_t shared_bytes,
              const std::function<void()>& body) {
  grid().run(grid_size, block, shared_bytes, body);
}

}  // namespace simt
