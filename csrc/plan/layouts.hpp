// How each tensor lies in the program: in torch's order, or as the op that reads it wants it.
#pragma once

#include <vector>

#include "ops/args.hpp"
#include "ops/op.hpp"
#include "plan/network.hpp"

namespace fastmaml {

class Layouts {
 public:
  // UnsupportedModelError where two ops want one tensor in two ways.
  explicit Layouts(const Network& network);
  bool packed(int tensor) const { return static_cast<bool>(packing_[tensor]); }
  const Packing& packing(int tensor) const { return packing_[tensor]; }
  // From torch's order: without `in` and `out`. Transposed: [groups, taps, O, I].
  PermuteArgs pack(int tensor, bool transposed) const;
  // Back to it.
  PermuteArgs unpack(int tensor) const;

 private:
  std::vector<Packing> packing_;  // by tensor
};

}  // namespace fastmaml
