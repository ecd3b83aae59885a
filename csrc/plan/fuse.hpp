// Rewrites of the program that save passes over memory.
#pragma once

#include "plan/program.hpp"

namespace fastmaml {

// A relu (any of its four passes) whose input only contractions write, and only it reads, becomes
// the gate of the last of them. Called before the `buffers` are placed.
void fuse_relu(Program& program, size_t buffers);

}  // namespace fastmaml
