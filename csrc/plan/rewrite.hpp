// Rewrites of a network that leave every number it computes as it was.
#pragma once

#include "plan/network.hpp"

namespace fastmaml {

// relu -> max-pool becomes max-pool -> relu: the same values and derivatives, ties and zeros
// included, on a fraction of the numbers.
void pool_before_relu(Network& network);

// batch_norm -> max-pool becomes one batch_norm, for pools whose windows touch and do not overlap:
// the largest activations of such networks are then neither written nor read again.
void fuse_pool_into_norm(Network& network);

// batch_norm -> relu or leaky_relu becomes one batch_norm (of a pooled one, relu alone).
void fuse_relu_into_norm(Network& network);

// linear of the network's input -> batch_norm with batch statistics becomes centre, linear and
// batch_norm, whose numbers round less.
void centre_input(Network& network);

// conv2d of the network's input -> pooled batch_norm with batch statistics becomes patches and
// stem, where the window's patch is small.
void fuse_stem(Network& network);

}  // namespace fastmaml
