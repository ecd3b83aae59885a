// What device code calls on the host: the thread it is, barriers, warp operations, shared memory.
//
// A block's threads are fibers of one processor thread. Each runs until it must wait; the others
// then go on in an order that a test chooses. Where real threads would race, an order exists that
// shows it. `Where` is the line of the call, for messages.
#pragma once

#include <cstdint>
#include <cstring>
#include <source_location>

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

// The block's dynamic shared memory, filled with NaN bytes before each block.
char* shared_memory();
// Arrays are about to be cut out of it, and the bytes that none of them owns: whoever writes there
// is reported.
void begin_carve();
void guard(char* from, int64_t bytes);

// Copies land when they are waited for; until then the target holds NaN bytes.
void copy_async(void* to, const void* from, int bytes, bool valid, Where where = Where::current());
void copy_commit();
void copy_wait(int pending);

}  // namespace simt
