// Which convolutions of a network run by Winograd's method.
#pragma once

#include <cstddef>

#include "plan/program.hpp"

namespace fastmaml {

// Sets the attribute `winograd` of each convolution that can, by estimated cost unless the settings
// say otherwise, with a line for describe. One choice for all passes of a layer.
void choose_winograd(Program& program);

// The scratch of the instruction that asks for most.
size_t scratch_bytes(const Program& program);

}  // namespace fastmaml
