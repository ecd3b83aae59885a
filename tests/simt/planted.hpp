// Small kernels with one defect each, and their correct twins: what the host executor must catch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fastmaml::test {

struct Planted {
  std::string name;
  const void* wrong;
  const void* right;  // both (float* out, const float* in, int64_t count)
  unsigned blocks_x = 1, blocks_y = 1;
  int64_t shared_bytes = 16 * 1024;
};

const std::vector<Planted>& planted();
std::vector<std::string> planted_names();
// Launches the kernel and gives its output. Throws BackendError where the launch fails.
std::vector<float> run_planted(const std::string& name, bool right);

// The fake runtime's own tests: one text for each check that failed.
std::vector<std::string> runtime_failures();

}  // namespace fastmaml::test
