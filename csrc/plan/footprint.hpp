// The bytes that a program itself holds between calls, beside the workspace that it runs in.
#pragma once

#include <cstddef>

#include "plan/program.hpp"

namespace fastmaml {

// What the allocator takes for a block of so many bytes: its header, in steps of 16 (as glibc's).
constexpr size_t block_bytes(size_t bytes) {
  constexpr size_t kHeader = 8, kGrain = 16, kLeast = 32;
  if (bytes == 0) return 0;
  const size_t whole = (bytes + kHeader + kGrain - 1) / kGrain * kGrain;
  return whole < kLeast ? kLeast : whole;
}

// The arguments of an instruction, without the maps that others share.
size_t args_bytes(const Args& args);

// Instructions and their arguments, maps of pixels (each once, however many instructions read it),
// labels, decisions and the network.
size_t footprint(const Program& program);

}  // namespace fastmaml
