// What a NodeSpec may name: the ops of ops/list.hpp, by the names on their cards.
#pragma once

#include <string>
#include <vector>

#include "ops/op.hpp"

namespace fastmaml {

// The op of this name, or nullptr. `reshape` moves no number and is resolved when the network is
// built (ops/reshape), so it is not here.
const Op* find_op(const std::string& name);
const LossOp* find_loss(const std::string& name);

// All names, sorted.
std::vector<std::string> op_names();
std::vector<std::string> loss_names();

}  // namespace fastmaml
