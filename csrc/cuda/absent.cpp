// The device executor of a build without CUDA.
#include "core/error.hpp"
#include "cuda/executor.hpp"
#include "machine.hpp"

namespace fastmaml {

struct DevicePlan::State {};

std::string device_absence() {
  return "this build has no CUDA; build it where nvcc is found, with FASTMAML_CUDA=ON";
}

int64_t device_shared_limit(int) { throw BackendError(device_absence()); }

DevicePlan::DevicePlan(const Program&) { throw BackendError(device_absence()); }
DevicePlan::~DevicePlan() = default;
size_t DevicePlan::workspace_bytes(int64_t, int) const { return 0; }
const std::vector<char>& DevicePlan::tables() const { throw BackendError(device_absence()); }
Executor DevicePlan::run(const Call&) const { throw BackendError(device_absence()); }

}  // namespace fastmaml
