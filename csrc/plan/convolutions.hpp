// Which convolutions of a network run by Winograd's method.
#pragma once

#include "plan/program.hpp"

namespace fastmaml {

// Sets the attribute `winograd` of each convolution that can, by estimated cost unless the settings
// say otherwise, with a line for describe. One choice for all passes of a layer.
void choose_winograd(Program& program);

}  // namespace fastmaml
