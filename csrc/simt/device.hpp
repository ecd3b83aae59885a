// What device code calls on the host: the thread it is, barriers, warp operations, shared memory.
//
// A block's threads are fibers of one processor thread. Each runs until it must wait; the others
// then go on in an order that a test chooses. Where real threads would race, an order exists that
// shows it. `Where` is the line of the call, for messages.
#pragma once

#include <cstdint>
#include <cstring>
#include <source_location>

// Compiled with device code but no part of it: its own accesses are not to be checked.
#define SIMT_HOST_SIDE __attribute__((noinline, no_sanitize("thread")))

namespace simt {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Thread {
  Index thread, block, block_size, grid_size;
};
// The thread that runs.
const Thread& self();

using Where = std::source_location;

void block_barrier(Where where = Where::current());

// One warp operation: every lane of `mask` hands in `bytes` (at most 32) and, when all have, finds
// what lane `from(lane)` handed in with `read`.
void warp_meet(unsigned mask, const void* value, size_t bytes, Where where);
void warp_read(int lane, void* value, size_t bytes);
int lane();

template <class T>
T shuffle(unsigned mask, T value, int from, Where where) {
  warp_meet(mask, &value, sizeof value, where);
  T read;
  warp_read(from, &read, sizeof read);
  return read;
}

// The block's dynamic shared memory, filled with NaN bytes before each block, and room for gaps.
constexpr size_t kSharedSpace = 320 * 1024;
char* shared_memory();
// Arrays are about to be cut out of it. After each comes a gap that no array owns: whoever writes
// there is reported. `end`: where the array would end on a device, which has no gaps; beyond what
// the launch asked for it is reported.
void begin_carve();
void array(char* from, int64_t bytes, int64_t gap, const char* end);
// Shared memory that is the block's for good, whatever is cut out of the rest.
void arena(char* from, int64_t bytes);
// __threadfence
void fence();

// `bytes` is 4, 8 or 16. Copies land when they are waited for; until then the target holds NaN
// bytes.
void copy_async(void* to, const void* from, int bytes, bool valid, Where where = Where::current());
void copy_commit();
void copy_wait(int pending);

}  // namespace simt
