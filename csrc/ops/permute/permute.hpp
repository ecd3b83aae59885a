// A strided copy of up to four dimensions: between torch's layouts and the engine's.
//
//   out[i0, i1, i2, i3] = cin[i0, i1, i2, i3] + in[i0 s0 + i1 s1 + i2 s2 + i3 s3]
//
// `Permute` is the op that moves images between channels-first (torch) and channels-last (the
// engine); build_network puts it between layers that disagree. Attribute: to_last.
#pragma once

#include <cstdint>

#include "ops/card.hpp"
#include "ops/linear_map.hpp"

namespace fastmaml {

struct PermuteArgs : Card {
  static constexpr const char* kName = "permute";

  Operand in;
  Operand cin;  // contiguous like out, may be out itself; absent: 0
  Operand out;  // contiguous
  int64_t size[4] = {1, 1, 1, 1};
  int64_t stride[4] = {0, 0, 0, 0};  // of in, in elements

  template <class Visit>
  void visit(Visit&& to) {
    int64_t all = 1, read = 1;
    for (int i = 0; i < 4; ++i) all *= size[i], read *= stride[i] == 0 ? 1 : size[i];
    to(in, read, false), to(cin, all, false), to(out, all, true);
  }
};

class Permute final : public LinearMap {
 public:
  static constexpr const char* kName = "permute";
  using KernelArgs = PermuteArgs;

  MemoryOrder order(const Node&) const override { return MemoryOrder::any; }
  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;

 protected:
  void apply(Emit& emit, const Node& node, const std::vector<Operand>& x,
             const Operand& y) const override;
  void transposed(Emit& emit, const Node& node, int i, const Operand& bar,
                  const Sink& to) const override;
};

}  // namespace fastmaml
