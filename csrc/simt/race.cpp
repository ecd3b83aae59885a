// The checker of the module _simt_checked. Device code compiled with -fsanitize=thread calls a hook
// before every access of memory; the hooks are these, and no sanitizer's runtime is linked.
//
// Reported are accesses outside what the launch may touch, and pairs of accesses to one word, at
// least one a write, that nothing orders: by threads of one block with no barrier between (a
// __syncwarp orders the lanes of its mask), or by two blocks of one launch, unless one counted the
// other in: fence, atomic, and an atomic on the same word by the other later.
#include <algorithm>
#include <array>
#include <memory>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "simt/code.hpp"
#include "simt/watch.hpp"

namespace simt {
namespace {

constexpr unsigned kLanes = 32, kMostThreads = 1024;
constexpr size_t kWord = 4, kWordsOfPage = 1024, kMostPages = 1024, kKnown = 64;
constexpr ptrdiff_t kNear = 1024;  // bytes from a region that are worth its name in a message

enum class Kind : uint8_t { read, write, atomic };

struct Access {
  const void* code = nullptr;  // null: none
  unsigned block = 0, epoch = 0, clock = 0;
  uint16_t thread = 0;
  Kind kind = Kind::read;
};

// The last accesses to a word, or to a byte where words are used in parts.
struct Cell {
  uint64_t age = 0;  // of the launch, or of the block whose shared memory it is
  Access write, reads[2];
  Access foreign;  // a read by another block
  bool parted = false;
};

using Page = std::array<Cell, kWordsOfPage>;

// What a block made known by an atomic: all that it did before, and fenced.
struct Release {
  Access by;
  bool fenced;                   // by the thread itself, since the last barrier
  std::vector<unsigned> fences;  // epochs + 1 of the threads' last fences
};
// A release that another block has seen with an access of its own.
struct Seen {
  const Release* release;
  unsigned epoch;
  uint16_t thread;
};

class Checker {
 public:
  void access(const char* at, size_t bytes, Kind kind, const void* code);
  void enter(const char* at, size_t bytes, Kind kind, const void* code, const Thread& thread);
  void begin_launch();
  void begin_block();
  void warp_barrier(unsigned warp, unsigned mask);

  std::vector<Region> regions_, arrays_;
  uint64_t launch_age_ = 0, block_age_ = 0;
  unsigned epoch_ = 0;
  // Of this processor thread, kept: to look them up takes longer than most checks.
  const Running& running_ = running();
  const char* shared_ = nullptr;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  std::unordered_map<uintptr_t, std::array<Cell, kWord>> parts_;
  std::vector<unsigned> fences_;  // of the block's threads: 1 + the epoch of the last one

 private:
  void check_bounds(const char* at, size_t bytes, Kind kind, const void* code, bool shared);
  bool ordered(const Access& then, const Access& now) const;
  bool counted_in(const Access& then, const Access& now) const;
  void count_in(const Access& now, const char* at);
  void enter_cell(Cell& cell, const Access& now, const char* at, bool shared);
  [[noreturn]] void report(const Access& then, const Access& now, const char* at, bool shared);
  Cell& word(uintptr_t index) {
    const uintptr_t number = index / kWordsOfPage;
    Known& known = known_[number % kKnown];
    if (known.number != number || !known.page) {
      auto& page = pages_[number];
      if (!page) page = std::make_unique<Page>();
      known = {number, page.get()};
    }
    return (*known.page)[index % kWordsOfPage];
  }
  Access access_of(const Thread& thread, Kind kind, const void* code) const {
    const unsigned t = thread.thread.x;
    return {code,
            thread.block.y * thread.grid_size.x + thread.block.x,
            epoch_,
            clocks_[t][t % kLanes],
            static_cast<uint16_t>(t),
            kind};
  }

  // The page last asked for among those of one remainder: spares most look-ups.
  struct Known {
    uintptr_t number = 0;
    Page* page = nullptr;
  };
  std::array<Known, kKnown> known_;
  bool clocks_moved_ = true;
  std::unordered_map<const char*, std::vector<std::unique_ptr<Release>>> releases_;  // by word
  std::vector<Seen> seen_;
  // clocks_[t][l]: how far thread t has seen lane l of its warp, by __syncwarps.
  unsigned clocks_[kMostThreads][kLanes];
  unsigned blocks_across_ = 1;
};

thread_local Checker* t_checker = nullptr;

Checker& checker() {
  static thread_local std::unique_ptr<Checker> own = std::make_unique<Checker>();
  return *(t_checker = own.get());
}

const char* verb(Kind kind, bool past) {
  if (kind == Kind::read) return past ? "read" : "reads";
  if (kind == Kind::write) return past ? "wrote" : "writes";
  return past ? "changed atomically" : "changes atomically";
}

void Checker::begin_launch() {
  ++launch_age_;
  releases_.clear();
  if (pages_.size() > kMostPages) pages_.clear(), parts_.clear(), known_.fill({});
}

void Checker::begin_block() {
  ++block_age_, epoch_ = 0, shared_ = shared_memory();
  arrays_.clear(), seen_.clear(), fences_.assign(kMostThreads, 0);
  if (!std::exchange(clocks_moved_, false)) return;
  for (unsigned t = 0; t < kMostThreads; ++t)
    for (unsigned lane = 0; lane < kLanes; ++lane) clocks_[t][lane] = t % kLanes == lane;
}

void Checker::warp_barrier(unsigned warp, unsigned mask) {
  unsigned joined[kLanes] = {};
  clocks_moved_ = true;
  auto* const clocks = clocks_ + warp * kLanes;
  for (unsigned from = 0; from < kLanes; ++from)
    for (unsigned lane = 0; lane < kLanes && (mask >> from & 1); ++lane)
      joined[lane] = std::max(joined[lane], clocks[from][lane]);
  for (unsigned to = 0; to < kLanes; ++to)
    if (mask >> to & 1) std::copy(joined, joined + kLanes, clocks[to]), ++clocks[to][to];
}

void Checker::access(const char* at, size_t bytes, Kind kind, const void* code) {
  if (running_.holds(__builtin_frame_address(0)) && !running_.holds(at))
    enter(at, bytes, kind, code, *running_.thread);
}

void Checker::enter(const char* at, size_t bytes, Kind kind, const void* code,
                    const Thread& thread) {
  const bool shared = at >= shared_ && at < shared_ + kSharedSpace;
  blocks_across_ = thread.grid_size.x;
  check_bounds(at, bytes, kind, code, shared);
  const Access now = access_of(thread, kind, code);
  if (kind == Kind::atomic) count_in(now, at);
  const uint64_t age = shared ? block_age_ : launch_age_;
  const auto begin = reinterpret_cast<uintptr_t>(at), end = begin + bytes;
  for (uintptr_t index = begin / kWord; index * kWord < end; ++index) {
    Cell& whole = word(index);
    if (whole.age != age) whole = {}, whole.age = age;
    const uintptr_t from = std::max(begin, index * kWord), to = std::min(end, (index + 1) * kWord);
    if (!whole.parted && to - from == kWord) {
      enter_cell(whole, now, at, shared);
      continue;
    }
    auto& parts = parts_[index];
    if (!whole.parted) parts.fill(whole), whole.parted = true;
    for (uintptr_t byte = from; byte < to; ++byte) enter_cell(parts[byte % kWord], now, at, shared);
  }
}

void Checker::check_bounds(const char* at, size_t bytes, Kind kind, const void* code, bool shared) {
  const auto within = [&](const Region& region) {
    const char* from = static_cast<const char*>(region.from);
    return at >= from && at + bytes <= from + region.bytes;
  };
  const std::vector<Region>& allowed = shared ? arrays_ : regions_;
  const auto found = std::find_if(allowed.begin(), allowed.end(), within);
  const bool writes = kind != Kind::read;
  if (found != allowed.end() && (found->writable || !writes)) return;
  // Tables of constants lie in the module.
  if (found == allowed.end() && !shared && !writes && in_module(at)) return;
  std::ostringstream out;
  out << "thread " << running().thread->thread.x << " " << verb(kind, false) << " " << bytes
      << " bytes ";
  if (found != allowed.end())
    out << "of " << found->name << ", which is an input";
  else if (shared)
    out << "at byte " << at - shared_memory() << " of shared memory, outside every array";
  else
    out << "of global memory outside what the launch may touch";
  for (const Region& region : allowed)
    if (const auto gap = at - static_cast<const char*>(region.from);
        found == allowed.end() && gap > -kNear &&
        gap < static_cast<ptrdiff_t>(region.bytes) + kNear)
      out << " (byte " << gap << " of " << region.name << ", which has " << region.bytes << ")";
  stop(out.str() + " at " + line_of(code));
}

bool Checker::ordered(const Access& then, const Access& now) const {
  if (!then.code) return true;
  if (then.block != now.block) return counted_in(then, now);
  if (then.thread == now.thread || then.epoch < now.epoch) return true;
  return then.thread / kLanes == now.thread / kLanes &&
         then.clock <= clocks_[now.thread][then.thread % kLanes];
}

bool Checker::counted_in(const Access& then, const Access& now) const {
  return std::any_of(seen_.begin(), seen_.end(), [&](const Seen& seen) {
    const Access& by = seen.release->by;
    const bool before = then.thread == by.thread || then.epoch < by.epoch;
    const bool fenced = seen.release->fenced || then.kind == Kind::atomic ||
                        seen.release->fences[then.thread] > then.epoch;
    return by.block == then.block && before && fenced &&
           (now.thread == seen.thread || now.epoch > seen.epoch);
  });
}

void Checker::count_in(const Access& now, const char* at) {
  auto& releases = releases_[at];
  for (const auto& release : releases)
    if (release->by.block != now.block) seen_.push_back({release.get(), now.epoch, now.thread});
  const bool fenced = fences_[now.thread] == now.epoch + 1;
  releases.push_back(std::make_unique<Release>(Release{now, fenced, fences_}));
}

void Checker::enter_cell(Cell& cell, const Access& now, const char* at, bool shared) {
  const auto check = [&](const Access& then) {
    if (!ordered(then, now) && !(then.kind == Kind::atomic && now.kind == Kind::atomic))
      report(then, now, at, shared);
  };
  if (cell.reads[0].code && cell.reads[0].block != now.block)
    cell.foreign = cell.reads[0], cell.reads[0] = cell.reads[1] = {};
  check(cell.write);
  if (now.kind == Kind::read) {
    // What is ordered before this read need not be remembered: whoever conflicts with it, and not
    // with this read, conflicted before.
    cell.reads[ordered(cell.reads[0], now) ? 0 : 1] = now;
    return;
  }
  check(cell.reads[0]), check(cell.reads[1]), check(cell.foreign);
  cell.write = now;
}

void Checker::report(const Access& then, const Access& now, const char* at, bool shared) {
  const auto who = [&](const Access& a) {
    std::ostringstream out;
    out << "thread " << a.thread << " of block (" << a.block % blocks_across_ << ", "
        << a.block / blocks_across_ << ")";
    return out.str();
  };
  std::ostringstream out;
  out << "a race: " << who(now) << " " << verb(now.kind, false) << " ";
  if (shared) out << "byte " << at - shared_memory() << " of shared memory";
  if (!shared) out << "global memory";
  for (const Region& region : regions_)
    if (const auto gap = at - static_cast<const char*>(region.from);
        !shared && gap >= 0 && gap < static_cast<ptrdiff_t>(region.bytes))
      out << " (byte " << gap << " of " << region.name << ")";
  out << " at " << line_of(now.code) << ", which " << who(then) << " " << verb(then.kind, true)
      << " at " << line_of(then.code)
      << (then.block == now.block ? ", with no barrier between" : ", and blocks are not ordered");
  stop(out.str());
}

class Race final : public Watcher {
 public:
  Race() { watch(this); }
  void allow(std::vector<Region> regions) override { checker().regions_ = std::move(regions); }
  void begin_launch() override { checker().begin_launch(); }
  void begin_block() override { checker().begin_block(); }
  void barrier() override { ++checker().epoch_; }
  void warp_barrier(unsigned warp, unsigned mask) override { checker().warp_barrier(warp, mask); }
  void fence() override { checker().fences_[self().thread.x] = checker().epoch_ + 1; }
  void begin_carve() override { checker().arrays_.clear(); }
  void array(const char* from, int64_t bytes) override {
    checker().arrays_.push_back({"a shared array", from, static_cast<size_t>(bytes), true});
  }
  // It may land at any time from here on, so that it is entered twice.
  void issued(const AsyncCopy& copy) override {
    const size_t bytes = static_cast<size_t>(copy.bytes);
    if (copy.valid && !running().holds(copy.from))
      checker().enter(copy.from, bytes, Kind::read, copy.code, self());
    landed(copy);
  }
  void landed(const AsyncCopy& copy) override {
    checker().enter(copy.to, static_cast<size_t>(copy.bytes), Kind::write, copy.code, self());
  }
};
const Race race;

void hook(const void* at, size_t bytes, Kind kind, const void* code) {
  if (t_checker) t_checker->access(static_cast<const char*>(at), bytes, kind, code);
}

}  // namespace
}  // namespace simt

// What g++ and clang++ call.
#define HOOK(name, bytes, kind)                                           \
  void __tsan_##name(void* at) {                                          \
    simt::hook(at, bytes, simt::Kind::kind, __builtin_return_address(0)); \
  }
#define HOOKS(bytes)                       \
  HOOK(read##bytes, bytes, read)           \
  HOOK(write##bytes, bytes, write)         \
  HOOK(unaligned_read##bytes, bytes, read) \
  HOOK(unaligned_write##bytes, bytes, write)
#define RANGE(name, kind)                                                 \
  void __tsan_##name(void* at, size_t bytes) {                            \
    simt::hook(at, bytes, simt::Kind::kind, __builtin_return_address(0)); \
  }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
HOOK(vptr_read, sizeof(void*), read)
RANGE(read_range, read)
RANGE(write_range, write)
void __tsan_vptr_update(void** at, void*) {
  simt::hook(at, sizeof *at, simt::Kind::write, __builtin_return_address(0));
}
// Of guards of static objects, which only host code has.
unsigned char __tsan_atomic8_load(const volatile unsigned char* at, int) {
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
unsigned __tsan_atomic32_fetch_add(volatile unsigned* at, unsigned value, int) {
  simt::hook(const_cast<unsigned*>(at), sizeof *at, simt::Kind::atomic,
             __builtin_return_address(0));
  return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}
}
