// The memory that a call may touch, for the checker of the host executor.
#pragma once

#include <string>
#include <vector>

#include "plan/scalars.hpp"
#include "simt/watch.hpp"

namespace fastmaml {

inline std::vector<simt::Region> regions_of(const Program& program, const Call& call,
                                            size_t table_bytes) {
  const bool adapt = program.settings.mode == Mode::adapt;
  const size_t bytes = program.settings.dtype == Dtype::f32 ? 4 : 8;
  const Network& network = program.network;
  std::vector<size_t> sizes(static_cast<size_t>(spaces_of(program)));
  const auto set = [&](int space, int64_t numbers, size_t each) {
    sizes[static_cast<size_t>(space)] = static_cast<size_t>(numbers) * each;
  };
  const size_t target = network.loss.op_name == "cross_entropy" ? sizeof(int64_t) : bytes;
  const int64_t support = call.tasks * program.settings.support_rows;
  const int64_t query = adapt ? 0 : call.tasks * program.settings.query_rows;
  set(kSupportX, support * program.input_numel, bytes);
  set(kSupportY, support * program.target_numel, target);
  set(kQueryX, query * program.input_numel, bytes);
  set(kQueryY, query * program.target_numel, target);
  const int64_t sets = query_passes(program.settings);
  set(kLogits, sets * query * program.output_numel, bytes);
  set(kLosses, sets * call.tasks, bytes);
  set(kRateDots, call.tasks * program.settings.inner_steps, bytes);
  int space = kTensors;
  for (const TensorSpec& tensor : network.tensors) set(space++, numel(tensor.shape), bytes);
  const int first_output = space;
  for (const TensorSpec& tensor : network.tensors)
    if (has_output(program.settings, tensor))
      set(space++, numel(tensor.shape) * (adapt ? call.tasks : 1), bytes);

  std::vector<simt::Region> regions{{"the workspace", call.workspace, call.workspace_bytes, true},
                                    {"the tables' counter", call.tables, 16, true},
                                    {"the program's tables", call.tables, table_bytes, false}};
  for_each_space(program, call, [&](int s, const void* pointer) {
    const bool output = s == kLogits || s == kLosses || s == kRateDots || s >= first_output;
    if (pointer)
      regions.push_back(
          {"space " + std::to_string(s), pointer, sizes[static_cast<size_t>(s)], output});
  });
  return regions;
}

}  // namespace fastmaml
