#include "cuda/device.cuh"
#include "planted.hpp"
#include "simt/kernel.hpp"

namespace fastmaml::device {
namespace {

constexpr int kLanes = 32;
constexpr unsigned kAll = ~0u;

// Shared memory as instructions get it.
Block block_of_launch() {
  Block block{};
  block.memory = simt::shared_memory();
  return block;
}
#define CARVE                            \
  const Block block = block_of_launch(); \
  Carve carve(block);                    \
  const int t = threadIdx.x;

template <bool Right>
void missing_barrier(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(kThreads);
  a[t] = in[t];
  if (Right) __syncthreads();
  out[t] = a[(t + 1) % kThreads];
}

template <bool Right>
void missing_trailing_barrier(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(2 * kThreads);
  const auto load = [&](int slab) {
    copy_async<4>(a + slab % 2 * kThreads + t, in + slab * kThreads + t, true);
    copy_commit();
  };
  float sum = 0;
  load(0);
  for (int slab = 0; slab < 4; ++slab) {
    if (slab < 3) load(slab + 1);
    if (slab < 3)
      copy_wait<1>();
    else
      copy_wait<0>();
    __syncthreads();
    sum += a[slab % 2 * kThreads + (t + 77) % kThreads];
    if (Right) __syncthreads();
  }
  out[t] = sum;
}

template <bool Right>
void missing_syncwarp(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(kThreads);
  a[t] = in[t];
  if (Right) __syncwarp();
  out[t] = a[t ^ 1];
}

// A shuffle makes the lanes meet, but orders no memory.
template <bool Right>
void shuffle_for_syncwarp(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(kThreads);
  a[t] = in[t];
  const float other = __shfl_xor_sync(kAll, in[t], 2);
  if (Right) __syncwarp();
  out[t] = a[t ^ 1] + other;
}

// Lanes of the other half are ordered with one another, not with these.
template <bool Right>
void syncwarp_of_half(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(kThreads);
  a[t] = in[t];
  __syncwarp(t % kLanes < 16 ? 0xffffu : 0xffff0000u);
  out[t] = a[Right ? t ^ 1 : t ^ 16];
}

template <bool Right>
void wrong_mask(float* out, const float* in, int64_t) {
  const int t = threadIdx.x;
  float value = in[t];
  if (t % kLanes < 16) value += __shfl_xor_sync(Right ? 0xffffu : kAll, value, 1);
  out[t] = value;
}

template <bool Right>
void lane_outside_mask(float* out, const float* in, int64_t) {
  const int t = threadIdx.x;
  out[t] = in[t] + __shfl_xor_sync(Right ? kAll : 0xffffu, in[t], 1);
}

template <bool Right>
void divergent_barrier(float* out, const float* in, int64_t) {
  const int t = threadIdx.x;
  if (Right || t < kThreads / 2) __syncthreads();
  out[t] = in[t];
}

template <bool Right>
void two_barriers(float* out, const float* in, int64_t) {
  const int t = threadIdx.x;
  if (Right || t < kThreads / 2)
    __syncthreads();
  else
    __syncthreads();
  out[t] = in[t];
}

template <bool Right>
void write_past_shared(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(101);
  if (t < (Right ? 101 : 102)) a[t] = in[t];
  __syncthreads();
  out[t] = a[t % 101];
}

template <bool Right>
void read_past_shared(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(101);
  if (t < 101) a[t] = in[t];
  __syncthreads();
  out[t] = a[t % (Right ? 101 : 102)];
}

template <bool Right>
void uninitialised_shared(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(kThreads);
  if (Right || t != 200) a[t] = in[t];
  __syncthreads();
  out[t] = a[kThreads - 1 - t];
}

template <bool Right>
void unwaited_copy(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(kThreads);
  copy_async<4>(a + t, in + t, true);
  copy_commit();
  if (Right) copy_wait<0>();
  __syncthreads();
  out[t] = a[kThreads - 1 - t];
}

template <bool Right>
void too_many_pending(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(2 * kThreads);
  copy_async<4>(a + t, in + t, true);
  copy_commit();
  copy_async<4>(a + kThreads + t, in + kThreads + t, true);
  copy_commit();
  copy_wait<Right ? 0 : 1>();
  __syncthreads();
  out[t] = a[2 * kThreads - 1 - t];
}

// The copy is waited for by the thread that issued it, and read by others.
template <bool Right>
void waited_but_no_barrier(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(kThreads);
  copy_async<4>(a + t, in + t, true);
  copy_commit();
  copy_wait<0>();
  if (Right) __syncthreads();
  out[t] = a[kThreads - 1 - t];
}

template <bool Right>
void misaligned_target(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(8 * kThreads);
  copy_async<16>(a + 8 * t + (Right ? 0 : 2), in, true);
  copy_commit();
  copy_wait<0>();
  out[t] = a[8 * t];
}

template <bool Right>
void misaligned_source(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(8 * kThreads);
  copy_async<8>(a + 2 * t, in + (Right ? 2 * t : 2 * t + 1), true);
  copy_commit();
  copy_wait<0>();
  out[t] = a[2 * t];
}

template <bool Right>
void copy_of_shared(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(kThreads);
  float* b = carve.take<float>(kThreads);
  a[t] = in[t];
  copy_async<4>(b + t, Right ? in + t : a + t, true);
  copy_commit();
  copy_wait<0>();
  out[t] = b[t];
}

template <bool Right>
void write_past_output(float* out, const float* in, int64_t count) {
  const int t = threadIdx.x;
  for (int64_t i = t; Right ? i < count : i <= count; i += kThreads) out[i] = in[i % count];
}

template <bool Right>
void read_past_input(float* out, const float* in, int64_t count) {
  const int t = threadIdx.x;
  float sum = 0;
  for (int64_t i = t; Right ? i < count : i <= count; i += kThreads) sum += in[i];
  out[t] = sum;
}

template <bool Right>
void write_to_input(float* out, const float* in, int64_t) {
  const int t = threadIdx.x;
  out[t] = in[t];
  if (!Right && t == 9) const_cast<float*>(in)[t] = 0;
}

template <bool Right>
void two_blocks_write(float* out, const float* in, int64_t) {
  const int t = threadIdx.x;
  const int64_t first = Right ? blockIdx.x * int64_t{kThreads} : 0;
  out[first + t] = in[t] + static_cast<float>(blockIdx.x);
}

template <bool Right>
void reads_another_block(float* out, const float* in, int64_t) {
  const int t = threadIdx.x, block = blockIdx.x;
  out[block * kThreads + t] = in[t];
  out[(2 + block) * kThreads + t] = out[(Right ? block : 0) * kThreads + t];
}

// The block that ends last reads what the others have fenced and counted.
template <bool Right>
void last_block_without_fence(float* out, const float* in, int64_t count) {
  CARVE
  unsigned* before = carve.take<unsigned>(1);
  auto* counter = reinterpret_cast<unsigned*>(out + count - 1);
  out[blockIdx.x * kThreads + t] = in[t];
  if (Right) __threadfence();
  __syncthreads();
  if (t == 0) *before = atomicAdd(counter, 1u);
  __syncthreads();
  if (*before + 1 < gridDim.x) return;
  out[2 * kThreads + t] = out[t] + out[kThreads + t];
  if (t == 0) *counter = 0;
}

template <bool Right>
void bytes_of_one_word(float* out, const float* in, int64_t) {
  CARVE
  auto* a = carve.take<unsigned char>(kThreads);
  a[Right ? t : t / 2 * 2] = static_cast<unsigned char>(t);
  __syncthreads();
  out[t] = static_cast<float>(a[t / 2 * 2]) + in[t];
}

template <bool Right>
void more_shared_than_asked(float* out, const float* in, int64_t) {
  CARVE
  float* a = carve.take<float>(Right ? 4096 : 4097);
  a[t] = in[t];
  out[t] = a[t];
}

// Here the launch is wrong, see run_planted.
template <bool>
void too_much_shared(float* out, const float* in, int64_t) {
  out[threadIdx.x] = in[threadIdx.x];
}
template <bool>
void grid_beyond_limits(float* out, const float* in, int64_t) {
  out[threadIdx.x] = in[threadIdx.x];
}

}  // namespace
}  // namespace fastmaml::device

namespace fastmaml::test {

#define KERNEL(name) \
  #name, simt::known_kernel(&device::name<false>), simt::known_kernel(&device::name<true>)

const std::vector<Planted>& planted() {
  static const std::vector<Planted> all{
      {KERNEL(missing_barrier)},
      {KERNEL(missing_trailing_barrier)},
      {KERNEL(missing_syncwarp)},
      {KERNEL(shuffle_for_syncwarp)},
      {KERNEL(syncwarp_of_half)},
      {KERNEL(wrong_mask)},
      {KERNEL(lane_outside_mask)},
      {KERNEL(divergent_barrier)},
      {KERNEL(two_barriers)},
      {KERNEL(write_past_shared)},
      {KERNEL(read_past_shared)},
      {KERNEL(uninitialised_shared)},
      {KERNEL(unwaited_copy)},
      {KERNEL(too_many_pending)},
      {KERNEL(waited_but_no_barrier)},
      {KERNEL(misaligned_target)},
      {KERNEL(misaligned_source)},
      {KERNEL(copy_of_shared)},
      {KERNEL(write_past_output)},
      {KERNEL(read_past_input)},
      {KERNEL(write_to_input)},
      {KERNEL(two_blocks_write), 2},
      {KERNEL(reads_another_block), 2},
      {KERNEL(last_block_without_fence), 2},
      {KERNEL(bytes_of_one_word)},
      {KERNEL(more_shared_than_asked)},
      {KERNEL(too_much_shared), 1, 1, 200 * 1024},
      {KERNEL(grid_beyond_limits), 1, 70000},
  };
  return all;
}

}  // namespace fastmaml::test
