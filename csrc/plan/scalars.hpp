// What a call's tables hold, whoever runs it: where each space lies, and the scalars.
#pragma once

#include <cmath>
#include <limits>

#include "fastmaml.hpp"
#include "ops/operand.hpp"
#include "plan/program.hpp"

namespace fastmaml {

inline int spaces_of(const Program& program) {
  return kTensors + static_cast<int>(program.network.tensors.size()) +
         program.network.trainable_count;
}

// set(space, pointer) for the spaces that are the caller's.
template <class Set>
void for_each_space(const Program& program, const Call& call, Set&& set) {
  set(kSupportX, call.support_x), set(kSupportY, call.support_y);
  set(kQueryX, call.query_x), set(kQueryY, call.query_y);
  set(kLogits, call.logits), set(kLosses, call.task_losses), set(kLossDots, call.loss_dots);
  int space = kTensors;
  for (const void* tensor : call.tensors) set(space++, tensor);
  for (void* output : program.settings.mode == Mode::adapt ? call.fast : call.grads)
    set(space++, output);
}

// Whether a learned rate is nothing: sigma v would lose digits below the smallest numbers, and what
// sigma H v adds to v is far below its rounding. Then u = v, and v stays what it is.
template <class T>
bool is_still(T rate) {
  constexpr T kEpsilon = std::numeric_limits<T>::epsilon();
  return std::abs(rate) < kEpsilon * kEpsilon * kEpsilon;
}

// See Scalars in ops/operand.hpp.
template <class T>
void write_scalars(const Program& program, const Call& call, void* to) {
  T* scalars = static_cast<T*>(to);
  scalars[Scalars::kOne] = T(1);
  scalars[Scalars::kSeed] = T(1) / static_cast<T>(call.tasks);
  scalars[Scalars::kSupportShare] = T(-1) / static_cast<T>(program.settings.support_rows);
  scalars[Scalars::kQueryShare] = T(-1) / static_cast<T>(program.settings.query_rows);
  for (int k = 0; k < program.settings.inner_steps; ++k) {
    const T rate = static_cast<T>(call.rates[k]);
    const bool still = is_still(rate) && program.settings.rate_grad;
    scalars[Scalars::neg_rate(k)] = -rate;
    scalars[Scalars::sigma(k)] = still ? T(1) : -rate;
    scalars[Scalars::sweep(k)] = still ? T(0) : T(1);
  }
}

}  // namespace fastmaml
