// The whole program in one launch, for networks whose state of one task fits in shared memory.
//
// A block interprets the program for its task: the transient arena and the transposed theta are
// its own shared memory, only what the commit reads goes to global memory. The block that ends
// last, whichever it is, sums over the tasks, in task order. No block waits for another.
#pragma once

#include "cuda/device.cuh"
#include "cuda/lower.hpp"
#include "cuda/resident.hpp"

namespace fastmaml::device {

template <class T, class A>
FASTMAML_DEVICE void interpret_as(const DeviceInstruction& instruction, const Block& block,
                                  int64_t task) {
  run_pass<T>(*block.table<A>(instruction.args), block, task);
}

// The kinds that networks of this size are made of, see kResidentKinds.
template <class T, int Kind = 0>
FASTMAML_DEVICE void interpret(const DeviceInstruction& instruction, const Block& block,
                               int64_t task) {
  if constexpr (Kind < kResidentKinds) {
    if (instruction.kind == Kind)
      interpret_as<T, DeviceArgs<std::variant_alternative_t<Kind, Args>>>(instruction, block, task);
    else
      interpret<T, Kind + 1>(instruction, block, task);
  }
}

template <class T>
FASTMAML_DEVICE void interpret_all(const DeviceList& list, const Block& block, int64_t task) {
  const DeviceInstruction* instructions = block.table<DeviceInstruction>(list.at);
  for (int64_t i = 0; i < list.count; ++i) {
    interpret<T>(instructions[i], block, task);
    __syncthreads();
  }
}

// Whether this block is the last of the grid to get here. The counter is 0 again afterwards.
FASTMAML_DEVICE bool ends_last(const Block& block, const char* tables) {
  auto* counter = reinterpret_cast<unsigned*>(const_cast<char*>(tables));
  __threadfence();
  __syncthreads();
  Carve carve(block);
  unsigned* before = carve.take<unsigned>(1);
  if (threadIdx.x == 0) *before = atomicAdd(counter, 1u);
  __syncthreads();
  const bool last = *before + 1 == gridDim.x;
  __syncthreads();
  if (last) {
    if (threadIdx.x == 0) *counter = 0;
    __threadfence();
  }
  return last;
}

template <class T>
__global__ void __launch_bounds__(kThreads) resident(const __grid_constant__ ResidentCall run) {
  char* const memory = dynamic_shared();
#if defined(FASTMAML_SIMT)
  simt::arena(memory, run.transient_bytes + run.shared_bytes);
#endif
  Block block{};
  block.call.base = reinterpret_cast<char* const*>(run.base);
  block.call.scalars = run.scalars_from ? run.scalars_from : run.scalars;
  block.call.tables = run.tables;
  block.call.capacity = block.call.tasks = run.tasks;
  block.transient = memory, block.shared = memory + run.transient_bytes;
  block.memory = block.shared + run.shared_bytes;
  block.local = true, block.rank = 0, block.size = 1, block.tasks = 1;
  interpret_all<T>(run.prologue, block, 0);
  for (int64_t task = blockIdx.x; task < run.tasks; task += gridDim.x)
    interpret_all<T>(run.body, block, task);
  if (!ends_last(block, run.tables)) return;
  block.tasks = run.tasks;
  interpret_all<T>(run.last, block, 0);
}

}  // namespace fastmaml::device
