// Which convolutions leave the moments of their output for the batch norm that reads it.
#pragma once

#include "plan/program.hpp"

namespace fastmaml {

// Sets the attribute `moments` of each convolution that can and whose output is large enough in one
// of the sets, with a line for describe. Follows choose_winograd.
void choose_moments(Program& program);

}  // namespace fastmaml
