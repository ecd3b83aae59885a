// What a call's tables hold, whoever runs it: where each space lies, and the scalars.
#pragma once

#include "fastmaml.hpp"
#include "ops/operand.hpp"
#include "plan/program.hpp"

namespace fastmaml {

inline int spaces_of(const Program& program) {
  return kTensors + static_cast<int>(program.network.tensors.size()) + program.output_count;
}

// set(space, pointer) for the spaces that are the caller's.
template <class Set>
void for_each_space(const Program& program, const Call& call, Set&& set) {
  set(kSupportX, call.support_x), set(kSupportY, call.support_y);
  set(kQueryX, call.query_x), set(kQueryY, call.query_y);
  set(kLogits, call.logits), set(kLosses, call.task_losses), set(kRateDots, call.rate_dots);
  int space = kTensors;
  for (const void* tensor : call.tensors) set(space++, tensor);
  for (void* output : program.settings.mode == Mode::adapt ? call.fast : call.grads)
    set(space++, output);
}

// fill(slot, Scalar) for every slot of Scalars in ops/operand.hpp: what is in a call's table.
template <class Fill>
void for_each_scalar(const Settings& settings, int64_t tasks, Fill&& fill) {
  const auto share = [](int64_t count) { return 1.0 / static_cast<double>(count); };
  fill(Scalars::kOne, Scalar{1});
  fill(Scalars::kSeed, Scalar{share(tasks)});
  fill(Scalars::kSupportShare, Scalar{-share(settings.support_rows)});
  // A program that only adapts has no query rows, and reads no share of them.
  fill(Scalars::kQueryShare, Scalar{settings.query_rows > 0 ? -share(settings.query_rows) : 0});
  for (int k = 0; k < settings.inner_steps; ++k) fill(Scalars::neg_rate(k), Scalar{-1, k});
}

template <class T>
void write_scalars(const Program& program, const Call& call, void* to) {
  for_each_scalar(program.settings, call.tasks, [&](int slot, const Scalar& scalar) {
    const T number = static_cast<T>(scalar.number);
    static_cast<T*>(to)[slot] =
        scalar.step < 0 ? number : number * static_cast<T>(call.rates[scalar.step]);
  });
}

}  // namespace fastmaml
