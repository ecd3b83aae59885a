#include "core/processors.hpp"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace fastmaml {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

// Processors of the affinity mask, whatever its size; 0 where the system does not say.
int affinity() {
  cpu_set_t usual;
  if (sched_getaffinity(0, sizeof usual, &usual) == 0) return CPU_COUNT(&usual);
  constexpr int kMostProcessors = 1 << 16;
  for (int count = 2 * CPU_SETSIZE; count <= kMostProcessors; count *= 2) {
    std::vector<unsigned long> mask(static_cast<size_t>(count) / (8 * sizeof(unsigned long)));
    const size_t bytes = mask.size() * sizeof(unsigned long);
    auto* set = reinterpret_cast<cpu_set_t*>(mask.data());
    if (sched_getaffinity(0, bytes, set) == 0) return CPU_COUNT_S(bytes, set);
  }
  return 0;
}

// Quota over period, from the files of one control group.
double quota_of(const std::string& folder) {
  std::string quota;
  double period = 0;
  if (std::ifstream file(folder + "/cpu.max"); file >> quota >> period)
    return quota == "max" || period <= 0 ? kUnlimited
                                         : std::strtod(quota.c_str(), nullptr) / period;
  double old_quota = -1;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> old_quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  return old_quota > 0 && period > 0 ? old_quota / period : kUnlimited;
}

}  // namespace

double processor_quota(const std::string& groups, const std::string& mount) {
  double least = kUnlimited;
  std::ifstream lines(groups);
  for (std::string line; std::getline(lines, line);) {
    // hierarchy:controllers:path; version 2 has no controllers.
    std::istringstream fields(line);
    std::string id, controllers, path;
    std::getline(fields, id, ':'), std::getline(fields, controllers, ':'),
        std::getline(fields, path);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    if (!path.starts_with('/')) continue;
    std::vector<std::string> roots{mount};
    if (!unified) roots = {mount + "/" + controllers, mount + "/cpu"};
    for (const std::string& root : roots) {
      least = std::min(least, quota_of(root));
      for (std::string at = path; at.size() > 1; at.resize(at.find_last_of('/')))
        least = std::min(least, quota_of(root + at));
    }
  }
  return least;
}

int usable_processors() noexcept {
  // The quota is read once: it is files, and few change it under a running process. (A guarded
  // static would hang the child of a fork that came in between.)
  static std::atomic<double> quota{0};
  double limit = quota.load(std::memory_order_relaxed);
  if (limit == 0) {
    try {
      limit = processor_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    } catch (const std::exception&) {
      limit = kUnlimited;
    }
    quota.store(limit, std::memory_order_relaxed);
  }
  int count = affinity();
  if (count < 1) count = static_cast<int>(std::thread::hardware_concurrency());
  if (limit < count) count = static_cast<int>(std::ceil(limit));
  return std::max(1, count);
}

}  // namespace fastmaml
