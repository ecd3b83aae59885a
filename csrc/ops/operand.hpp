// How an instruction names memory, and the scalars it may refer to.
//
//   address(o, task) = base[o.space] + o.offset * capacity[o.space]
//                      + (first[o.space] + task) * o.stride + o.shift        (in elements)
//
// In an arena a buffer of n numbers per task is stored [capacity, n], so that the rows of
// neighbouring tasks touch and one contraction can take them together. stride == 0 means that all
// tasks share the operand (theta, the meta-gradient). Planner and kernels share nothing else
// but the cards, so this holds data only.
#pragma once

#include <cstdint>

namespace fastmaml {

enum Space : int32_t {
  kTransient = 0,  // arena of one lane: dies with the group of tasks
  kKeep,           // arena of one round: read again by the commit instructions
  kShared,         // one per call: transposed theta
  kScalars,        // the call's scalars, see Scalars
  kSupportX,
  kSupportY,
  kQueryX,
  kQueryY,
  kLogits,
  kLosses,
  kRateDots,
  kTensors,  // kTensors + i: theta of tensor i; then one for each output, see Program::outputs
};

struct Operand {
  int32_t space = -1;   // where it lies; -1 for a buffer the planner has yet to place
  int32_t buffer = -1;  // the planner's number of the buffer, -1 outside the arenas
  int64_t offset = 0;   // of the buffer in its arena, for one task
  int64_t stride = 0;   // between tasks
  int64_t shift = 0;    // inside one task's part

  constexpr explicit operator bool() const { return space >= 0 || buffer >= 0; }
  constexpr Operand at(int64_t elements) const {
    Operand moved = *this;
    moved.shift += elements;
    return moved;
  }
  bool operator==(const Operand& o) const {
    return space == o.space && buffer == o.buffer && offset == o.offset && shift == o.shift;
  }
};

// Slots of the scalar table of one call; plan/scalars.hpp says what is in them.
struct Scalars {
  static constexpr int kOne = 0;
  static constexpr int kSeed = 1;  // 1 / T, the cotangent of every query loss
  static constexpr int kSupportShare = 2, kQueryShare = 3;  // -1 / S, -1 / Q: less a row's mean
  static constexpr int neg_rate(int k) { return 4 + k; }    // -alpha[k]
  static constexpr int count(int inner_steps) { return 4 + inner_steps; }
};

}  // namespace fastmaml
