// What one call costs on a CUDA device, counted from the program: no device is asked.
//
//   kernels   what runs on the device one after another: one for each instruction and round, and
//             those that write the call's pointers; or the one resident kernel
//   launches  what the host asks for: one, of a graph or of the resident kernel
//   bytes     to and from global memory, if every kernel reads its inputs and writes its outputs
//             once, and arrays that all tasks share once for all of them. The resident kernel
//             keeps its arenas on chip: what is left are the call's arrays and the kept factors,
//             each read once and written once
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fastmaml.hpp"

namespace fastmaml {

struct Program;

// All instructions of one kind, over all rounds.
struct KindCost {
  std::string kind;  // as in describe; "words" for the call's pointers and scalars
  int64_t instructions = 0;
  double flops = 0;  // multiply-adds counted as two, contractions only
  double bytes = 0;
};

struct DeviceCost {
  std::string obstacle;  // why the resident kernel cannot run the call; empty where it does
  int64_t launches = 1, kernels = 1, rounds = 1;
  double flops = 0, bytes = 0;
  size_t workspace_bytes = 0;
  int64_t block_bytes = 0;  // shared memory that a block of the resident kernel needs
  std::vector<KindCost> kinds;
};

// `lanes` and `team` as in Call; `shared_limit` is the most shared memory of a block in bytes.
DeviceCost device_cost(const Program& program, int64_t tasks, int lanes, int team,
                       int64_t shared_limit);

}  // namespace fastmaml
