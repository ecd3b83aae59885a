// The device kernels as host code sees them.
#pragma once

#include <cstdint>

#include "cuda/call.hpp"
#include "cuda/forms.hpp"
#include "fastmaml.hpp"
#include "ops/args.hpp"

namespace fastmaml {

// One instruction for all tasks of a round: arguments (its DeviceArgs, DeviceCall, bool shared).
struct DeviceKernel {
  const void* function = nullptr;
  int64_t shared_bytes = 0;
  int64_t (*units)(const void* args) = nullptr;  // how many blocks a task can occupy
};

struct DeviceKernelTable {
  DeviceKernel of[kArgsCount];  // by the index of the alternative in Args
};
const DeviceKernelTable& device_kernels(Dtype dtype);
// By the type of the numbers, each in a translation unit of its own.
template <class T>
const DeviceKernelTable& kernels_of();
template <>
const DeviceKernelTable& kernels_of<float>();
template <>
const DeviceKernelTable& kernels_of<double>();
// Those of f32, but with tf32 tiles where linear layers and convolutions have tiles.
const DeviceKernelTable& device_kernels_tf32();
// Those of the instructions that split their depth, see cuda/forms.hpp; no others.
const DeviceKernelTable& device_kernels_split(DepthSplit split);

// Writes 8-byte words to device memory: (uint64_t* to, Words). They travel as an argument, so that
// a graph's launch can carry new ones without a copy from the host; or lie on the device, at
// `from`.
struct Words {
  static constexpr int kMost = 256;
  uint64_t of[kMost];
  const uint64_t* from;
  int64_t count;
};
const void* write_words_kernel();

}  // namespace fastmaml
