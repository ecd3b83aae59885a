// The whole program in one launch, for networks whose state of one task fits in shared memory.
//
// A block interprets the program for its task: the transient arena and the transposed theta are
// its own shared memory, only what the commit reads goes to global memory. The block that ends
// last, whichever it is, sums over the tasks, in task order. No block waits for another.
#pragma once

#include "cuda/device.cuh"
#include "cuda/known.cuh"
#include "cuda/lower.hpp"
#include "cuda/resident.hpp"
#define FASTMAML_OP_FILE(op) FASTMAML_PATH(op, op##_cuda.cuh)
#include "ops/list.hpp"

namespace fastmaml::device {

template <class T, class A>
FASTMAML_DEVICE void interpret_as(const DeviceInstruction& instruction, const Block& block,
                                  int64_t task) {
  if constexpr (std::is_same_v<A, DeviceContractArgs>)
    run_pass<T, void>(*block.table<A>(instruction.args), block, task);
  else
    run_pass<T>(*block.table<A>(instruction.args), block, task);
}

// The kinds that networks of this size are made of.
template <class T, size_t Kind = 0>
FASTMAML_DEVICE void interpret(const DeviceInstruction& instruction, const Block& block,
                               int64_t task) {
  if constexpr (Kind == kArgsCount) {
    return;
  } else if constexpr (!ArgsAt<Kind>::kResident) {
    interpret<T, Kind + 1>(instruction, block, task);
  } else {
    if (instruction.kind == static_cast<int32_t>(Kind))
      interpret_as<T, DeviceArgs<ArgsAt<Kind>>>(instruction, block, task);
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

// Where the block reads the tables: an instruction's arguments are read one after another, which
// takes longer than most of them do where each comes from global memory.
FASTMAML_DEVICE const char* keep_tables(const ResidentCall& run, char* to) {
  struct alignas(16) Bytes {
    uint64_t of[2];
  };
  if (run.table_bytes == 0) return run.tables;
  const auto* from = reinterpret_cast<const Bytes*>(run.tables);
  const int64_t count = run.table_bytes / static_cast<int64_t>(sizeof(Bytes));
  // But for the counter, which other blocks may be changing.
  for (int64_t i = 1 + threadIdx.x; i < count; i += kThreads)
    reinterpret_cast<Bytes*>(to)[i] = from[i];
  __syncthreads();
  return to;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) resident(const __grid_constant__ ResidentCall run) {
  char* const memory = dynamic_shared();
#if defined(FASTMAML_SIMT)
  simt::arena(memory, run.transient_bytes + run.shared_bytes + run.table_bytes);
#endif
  Block block{};
  block.call.base = reinterpret_cast<char* const*>(run.base);
  block.call.scalars = run.scalars_from ? run.scalars_from : run.scalars;
  block.call.capacity = block.call.tasks = run.tasks;
  block.transient = memory, block.shared = memory + run.transient_bytes;
  char* const tables = block.shared + run.shared_bytes;
  block.call.tables = keep_tables(run, tables);
  block.memory = tables + run.table_bytes;
  block.local = true, block.rank = 0, block.size = 1, block.tasks = 1;
  // One call for all lists: each inlines every pass, which is what a build spends its time on.
  DeviceList list = run.prologue;
  int64_t task = 0;
  bool last = false;
#pragma unroll 1
  for (int64_t next = blockIdx.x;; next += gridDim.x) {
    interpret_all<T>(list, block, task);
    if (last) return;
    list = run.body, task = next;
    if (next < run.tasks) continue;
    if (!ends_last(block, run.tables)) return;
    list = run.last, task = 0, last = true;
    block.tasks = run.tasks;
  }
}

}  // namespace fastmaml::device
