#include "core/thread_pool.hpp"

#include <pthread.h>

#include <mutex>
#include <system_error>

#include "core/error.hpp"

namespace fastmaml {
namespace {

// About 100 microseconds of pauses: longer than the gap between two calls of a fast training loop,
// shorter than anything a user would notice as load.
constexpr int kIdleSpins = 6000;
constexpr int kBarrierSpins = 4000;
// Crews kept for later calls; each may have another size.
constexpr size_t kMostIdle = 4;

struct Crews {
  Crews() { idle.reserve(kMostIdle); }
  std::mutex mutex;
  std::vector<std::unique_ptr<Crew>> idle;
};

std::atomic<Crews*> g_crews{nullptr};

// In a forked child the parent's workers are gone and its mutex may be held for ever: start anew.
// The old list is left alone, since its threads cannot be joined.
void forget_crews() { g_crews.store(new Crews); }

Crews& crews() {
  static std::once_flag once;
  std::call_once(once, [] {
    g_crews.store(new Crews);  // never destroyed: workers may outlive static destruction
    pthread_atfork(nullptr, nullptr, forget_crews);
  });
  return *g_crews.load();
}

}  // namespace

void Barrier::wait() {
  const uint32_t round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
    spins < kBarrierSpins ? relax() : std::this_thread::yield();
}

Crew::Crew(int workers) {
  threads_.reserve(workers);
  try {
    for (int rank = 1; rank <= workers; ++rank) threads_.emplace_back([this, rank] { loop(rank); });
  } catch (const std::system_error& error) {
    const size_t started = threads_.size();
    dismiss();
    throw SettingError(message("threads: the system must start ", workers, " worker threads, it ",
                               "started ", started, " (", error.what(),
                               "); ask for fewer with torch.set_num_threads"));
  }
}

Crew::~Crew() { dismiss(); }

void Crew::dismiss() {
  stop_.store(true);
  // An even step: workers see a new ticket that asks for nothing.
  ticket_.fetch_add(2, std::memory_order_release);
  ticket_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Crew::run(Work work, void* context) {
  if (threads_.empty()) return work(context, 0);
  work_ = work, context_ = context;
  busy_.store(workers(), std::memory_order_relaxed);
  ticket_.fetch_xor(1, std::memory_order_release);
  ticket_.notify_all();
  work(context, 0);
  for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins)
    spins < kBarrierSpins ? relax() : std::this_thread::yield();
}

void Crew::loop(int rank) {
  uint32_t seen = 0;
  for (;;) {
    uint32_t now = ticket_.load(std::memory_order_acquire);
    for (int spins = 0; now == seen && spins < kIdleSpins; ++spins) {
      relax();
      now = ticket_.load(std::memory_order_acquire);
    }
    if (now == seen) {
      ticket_.wait(seen, std::memory_order_acquire);
      continue;
    }
    const bool work = (now ^ seen) & 1;
    seen = now;
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!work) continue;
    work_(context_, rank);
    busy_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

CrewLease::CrewLease(int workers) {
  Crews& all = crews();
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (size_t i = all.idle.size(); i-- > 0 && !crew_;)
      if (all.idle[i]->workers() == workers) {
        crew_ = std::move(all.idle[i]);
        all.idle.erase(all.idle.begin() + static_cast<std::ptrdiff_t>(i));
      }
  }
  if (!crew_) crew_ = std::make_unique<Crew>(workers);
}

CrewLease::~CrewLease() {
  Crews& all = crews();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (all.idle.size() < kMostIdle) all.idle.push_back(std::move(crew_));
}

}  // namespace fastmaml
