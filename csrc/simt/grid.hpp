// Runs the blocks of a launch, one after another, on fibers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "simt/device.hpp"

namespace simt {

enum class Order { ascending, descending, shuffled };

// How threads take turns from now on, and blocks likewise. `seed` is for Order::shuffled.
void set_order(Order order, uint64_t seed);

// Runs body() as every thread of every block. Throws std::runtime_error naming what went wrong.
void run_grid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body);

}  // namespace simt
