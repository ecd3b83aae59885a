// The argument structs of all kernels, one alternative for each (add an op: one line here).
#pragma once

#include <variant>

#include "ops/batch_norm/batch_norm.hpp"
#include "ops/bce_with_logits/bce_with_logits.hpp"
#include "ops/contract/contract.hpp"
#include "ops/conv2d/conv2d.hpp"
#include "ops/cross_entropy/cross_entropy.hpp"
#include "ops/group_norm/group_norm.hpp"
#include "ops/mse/mse.hpp"
#include "ops/patches/patches.hpp"
#include "ops/permute/permute.hpp"
#include "ops/pointwise/pointwise.hpp"
#include "ops/pool2d/pool2d.hpp"
#include "ops/stem/stem.hpp"
#include "ops/taps/taps.hpp"
#include "ops/transpose/transpose.hpp"

namespace fastmaml {

using Args = std::variant<ContractArgs, TransposeArgs, PointwiseArgs, BatchNormArgs, MseArgs,
                          CrossEntropyArgs, BceWithLogitsArgs, ConvArgs, PermuteArgs, PoolArgs,
                          GroupNormArgs, TapArgs, PatchArgs, StemArgs>;

}  // namespace fastmaml
