#include "cuda/kernels.cuh"

namespace fastmaml {

template <>
const DeviceKernelTable& kernels_of<float>() {
  static const DeviceKernelTable table = device::make_table<float>();
  return table;
}

}  // namespace fastmaml
