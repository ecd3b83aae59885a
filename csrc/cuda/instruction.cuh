// One instruction for the tasks of a round.
#pragma once

#include "cuda/device.cuh"

namespace fastmaml::device {

// Grid: team x tasks. Instructions whose outputs all tasks share have one team. The arguments come
// by value, into constant memory: behind a pointer they would be read again after every barrier.
// `Tiles`: how the tiles of contractions multiply, where it is not by multiply-adds in T.
template <class T, class A, class... Tiles>
__global__ void __launch_bounds__(kThreads, kBlocksHeld<T>)
    instruction_kernel(const __grid_constant__ A args, DeviceCall call, bool shared) {
  const Block block{call,      call.base[kTransient], call.base[kShared],     false, blockIdx.x,
                    gridDim.x, dynamic_shared(),      shared ? call.tasks : 1};
  const int64_t tasks = shared ? 1 : call.tasks;
  for (int64_t task = blockIdx.y; task < tasks; task += gridDim.y) {
    run_pass<T, Tiles...>(args, block, task);
    __syncthreads();
  }
}

}  // namespace fastmaml::device
