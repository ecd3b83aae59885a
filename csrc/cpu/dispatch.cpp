// Which instruction set runs: the best that the build holds and the machine has, or a forced one.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <system_error>
#include <thread>

#include "core/error.hpp"
#include "cpu/kernels.hpp"
#include "machine.hpp"

namespace fastmaml {

#ifdef FASTMAML_X86
namespace v4 {
extern const KernelTable kTable;
}
namespace v3 {
extern const KernelTable kTable;
}
namespace v2 {
extern const KernelTable kTable;
}
#else
namespace generic {
extern const KernelTable kTable;
}
#endif

namespace {

struct Level {
  const char* name;
  const KernelTable* table;
  bool present;
};

// Best first.
std::vector<Level> levels() {
  std::vector<Level> all;
#ifdef FASTMAML_X86
  all.push_back({"v4", &v4::kTable,
                 __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vl")});
  all.push_back({"v3", &v3::kTable,
                 __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                     __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")});
  all.push_back({"v2", &v2::kTable, true});  // the build's own floor
#else
  all.push_back({"generic", &generic::kTable, true});
#endif
  return all;
}

Level best() {
  const std::vector<Level> all = levels();
  for (const Level& level : all)
    if (level.present) return level;
  return all.back();
}

std::atomic<const KernelTable*> g_table{nullptr};

}  // namespace

const KernelTable& kernels() {
  const KernelTable* table = g_table.load(std::memory_order_relaxed);
  if (!table) {
    table = best().table;
    g_table.store(table, std::memory_order_relaxed);
  }
  return *table;
}

std::string instruction_set() {
  for (const Level& level : levels())
    if (level.table == &kernels()) return level.name;
  throw InternalError("the kernel table in force has no name");
}

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const Level& level : levels())
    if (level.present) names.emplace_back(level.name);
  return names;
}

void force_instruction_set(const std::string& name) {
  std::string have;
  for (const Level& level : levels()) {
    if (level.present && level.name == name) return g_table.store(level.table);
    if (level.present) have += have.empty() ? level.name : std::string(", ") + level.name;
  }
  throw SettingError(
      message("instruction set must be one of ", have, " on this machine, got ", name));
}

double peak_flops(Dtype dtype, int threads) {
  constexpr int64_t kRounds = 2'000'000;  // about 10 ms
  constexpr int kMostThreads = 4096;
  const auto fma = dtype == Dtype::f32 ? kernels().fma_f32 : kernels().fma_f64;
  if (threads < 1 || threads > kMostThreads)
    throw SettingError(
        message("peak_flops: threads must be 1 to ", kMostThreads, ", got ", threads));
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    std::atomic<int> waited_for{threads};
    std::vector<double> flops(static_cast<size_t>(threads));
    auto work = [&](int rank) {
      waited_for.fetch_sub(1);
      while (waited_for.load() > 0) std::this_thread::yield();
      flops[static_cast<size_t>(rank)] = fma(kRounds);
    };
    std::vector<std::jthread> others;
    try {
      for (int rank = 1; rank < threads; ++rank) others.emplace_back(work, rank);
    } catch (const std::system_error& error) {
      waited_for.store(0);  // lets those go that there are
      throw SettingError(message("peak_flops: the system must start ", threads - 1,
                                 " threads, got: ", error.what(), "; ask for fewer"));
    }
    while (waited_for.load() > 1) std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    work(0);
    others.clear();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, std::accumulate(flops.begin(), flops.end(), 0.0) / took.count());
  }
  return best;
}

}  // namespace fastmaml
