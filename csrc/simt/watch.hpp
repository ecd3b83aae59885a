// What a checker of memory accesses is told, and how it stops a block. Nobody watches in the module
// _simt; race.cpp, which is linked into _simt_checked alone, does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "simt/device.hpp"

namespace simt {

// Memory of the device that a launch may touch.
struct Region {
  std::string name;
  const void* from;
  size_t bytes;
  bool writable;
};

struct AsyncCopy {
  char* to;
  const char* from;
  int bytes;
  bool valid;
  const void* code;  // where in the device code it was issued
};

class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual void allow(std::vector<Region> regions) = 0;
  virtual void begin_launch() = 0;
  virtual void begin_block() = 0;
  virtual void barrier() = 0;                                   // all threads have reached it
  virtual void warp_barrier(unsigned warp, unsigned mask) = 0;  // all lanes of the mask have
  virtual void fence() = 0;                                     // by the thread that runs
  virtual void begin_carve() = 0;                               // earlier arrays are no more
  virtual void array(const char* from, int64_t bytes) = 0;      // of shared memory
  virtual void issued(const AsyncCopy& copy) = 0;
  virtual void landed(const AsyncCopy& copy) = 0;
};
void watch(Watcher* watcher);
bool watched();

// What the launches to come, by this processor thread, may touch, beside their own arguments.
void allow(std::vector<Region> regions);

// The device thread that runs on this processor thread, and its stack.
struct Running {
  const Thread* thread = nullptr;
  const char *stack = nullptr, *stack_end = nullptr;
  bool holds(const void* address) const {
    return address >= static_cast<const void*>(stack) &&
           address < static_cast<const void*>(stack_end);
  }
};
const Running& running();
// Leaves the block of the device thread that runs: the launch fails with this text.
[[noreturn]] void stop(std::string text);

}  // namespace simt
