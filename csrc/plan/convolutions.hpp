// Which convolutions of a network run by Winograd's method.
#pragma once

#include "plan/program.hpp"

namespace fastmaml {

// Sets the attributes `winograd_forward` and `winograd` of each convolution that can, by estimated
// cost unless the settings say otherwise, with a line for describe. One choice for the forward
// passes of a layer, whose tiles round least, and one for its others.
void choose_winograd(Program& program);

}  // namespace fastmaml
