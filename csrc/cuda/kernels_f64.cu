#include "cuda/kernels.cuh"

namespace fastmaml {

template <>
const DeviceKernelTable& kernels_of<double>() {
  static const DeviceKernelTable table = device::make_table<double>();
  return table;
}

}  // namespace fastmaml
