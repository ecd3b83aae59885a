// What device code sees: a block's place in the call, shared memory, and the few primitives that
// the host executor (simt/) must model. Compiled by nvcc, and by g++ against simt/include.
//
// A pass is a device function of a team: the blocks that share a task. `Block` says which of them
// this one is. Barriers are those of one block; no block waits for another inside an instruction.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/budgets.hpp"
#include "cuda/call.hpp"
#include "ops/operand.hpp"

#if defined(FASTMAML_SIMT)
#include "simt/device.hpp"
#endif

#define FASTMAML_DEVICE __device__ __forceinline__

namespace fastmaml::device {

// One block's view of the call.
struct Block {
  DeviceCall call;
  char* transient;     // the task's own arena where `local`, else that of all tasks
  char* shared;        // transposed theta
  bool local;          // the task's transient arena is this block's alone
  int64_t rank, size;  // of this block in its team
  char* memory;        // shared memory of the instruction, kInstructionBytes
  int64_t tasks;       // whose sums shared outputs hold

  FASTMAML_DEVICE int64_t first_thread() const { return rank * kThreads + threadIdx.x; }
  FASTMAML_DEVICE int64_t all_threads() const { return size * kThreads; }
  template <class T>
  FASTMAML_DEVICE T scalar(int slot) const {
    return static_cast<const T*>(call.scalars)[slot];
  }
  template <class T>
  FASTMAML_DEVICE const T* table(int64_t offset) const {
    return reinterpret_cast<const T*>(call.tables + offset);
  }
};

// See ops/operand.hpp. `task` counts from the round's first.
template <class T>
FASTMAML_DEVICE T* address(const Block& block, const Operand& o, int64_t task) {
  char* base;
  int64_t at = o.shift;
  if (o.space == kTransient) {
    base = block.transient;
    at += block.local ? o.offset : o.offset * block.call.capacity + task * o.stride;
  } else if (o.space == kShared) {
    base = block.shared, at += o.offset;
  } else if (o.space == kScalars) {
    base = const_cast<char*>(static_cast<const char*>(block.call.scalars));
  } else {
    base = block.call.base[o.space];
    at += o.space == kKeep ? o.offset * block.call.capacity + task * o.stride
                           : (block.call.start + task) * o.stride;
  }
  return reinterpret_cast<T*>(base) + at;
}

template <class T>
FASTMAML_DEVICE T* address_or_null(const Block& block, const Operand& o, int64_t task) {
  return o ? address<T>(block, o, task) : nullptr;
}

// a b + c, rounded once on a device. The compiler is told to make none of its own: it would in one
// kernel and not in another, and the same call would give other bits.
template <class T>
FASTMAML_DEVICE T multiply_add(T a, T b, T c) {
#if defined(__CUDA_ARCH__)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

// p[i], or `otherwise` where p is null. The compiler must ask each time: it would write a loop once
// for every set of operands that may be absent.
template <class T>
FASTMAML_DEVICE T load_or(const T* p, int64_t i, T otherwise) {
#if defined(__CUDA_ARCH__)
  asm("" : "+l"(p) : "l"(i));
#endif
  return p ? p[i] : otherwise;
}

// Cuts arrays out of the instruction's shared memory, in order. On the host executor the bytes
// between them are guarded.
class Carve {
 public:
  FASTMAML_DEVICE explicit Carve(const Block& block) : at_(block.memory) {
#if defined(FASTMAML_SIMT)
    simt::begin_carve();
#endif
  }
  template <class T>
  FASTMAML_DEVICE T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(at_);
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
#if defined(FASTMAML_SIMT)
    end_ += bytes;
    const int64_t exact = count * static_cast<int64_t>(sizeof(T));
    simt::array(at_, exact, bytes - exact + kGuardBytes, end_);
#endif
    at_ += bytes + kGuardBytes;
    return taken;
  }

 private:
  char* at_;
#if defined(FASTMAML_SIMT)
  static constexpr int64_t kGuardBytes = 64;
  const char* end_ = at_;  // were there no guards
#else
  static constexpr int64_t kGuardBytes = 0;
#endif
};

// The block's dynamic shared memory.
FASTMAML_DEVICE char* dynamic_shared() {
#if defined(FASTMAML_SIMT)
  return simt::shared_memory();
#else
  extern __shared__ __align__(16) char memory[];
  return memory;
#endif
}

// --- asynchronous copies into shared memory ------------------------------------------------------

#if defined(__CUDA_ARCH__)
FASTMAML_DEVICE unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
template <int Bytes>
FASTMAML_DEVICE void copy_async_to(unsigned target, const void* from, bool valid) {
  const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(from),
                 "r"(bytes));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(target), "l"(from),
                 "n"(Bytes), "r"(bytes));
}
#endif

// Bytes = 4, 8 or 16, both sides aligned to them; zeros, and nothing is read, where `valid` is
// false.
template <int Bytes>
FASTMAML_DEVICE void copy_async(void* to, const void* from, bool valid) {
#if defined(FASTMAML_SIMT)
  simt::copy_async(to, from, Bytes, valid);
#elif defined(__CUDA_ARCH__)
  copy_async_to<Bytes>(shared_address(to), from, valid);
#endif
}

// Ends the group of copies that this thread issued since the last one.
FASTMAML_DEVICE void copy_commit() {
#if defined(FASTMAML_SIMT)
  simt::copy_commit();
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;\n" ::);
#endif
}

// Waits until at most Pending of this thread's groups are under way.
template <int Pending>
FASTMAML_DEVICE void copy_wait() {
#if defined(FASTMAML_SIMT)
  simt::copy_wait(Pending);
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending));
#endif
}

}  // namespace fastmaml::device
