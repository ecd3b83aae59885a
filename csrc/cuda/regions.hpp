// The memory that a call may touch, for the checker of the host executor: what the caller's arrays
// are, and whether the cards of the instructions keep to them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "plan/scalars.hpp"
#include "simt/watch.hpp"

namespace fastmaml {

// Throws InternalError where a card says that an instruction touches more of an array of the
// caller's than there is, or writes what is not an output.
inline void check_cards(const Program& program, const Call& call, const std::vector<size_t>& sizes,
                        const std::function<bool(int space)>& is_output) {
  const int64_t number = element_bytes(program.settings);
  for (const auto* section : {&program.prologue, &program.body, &program.commit, &program.epilogue})
    for (const Instruction& instruction : *section)
      visit_operands(instruction.args, [&](const Operand& o, Amount amount, bool written) {
        if (o.space <= kScalars) return;
        const int64_t item = amount.item > 0 ? amount.item : number;
        const int64_t end = ((call.tasks - 1) * o.stride + o.shift) * item + amount.bytes(number);
        const auto size = static_cast<int64_t>(sizes[static_cast<size_t>(o.space)]);
        if (end > size || (written && !is_output(o.space)))
          throw InternalError(message("`", label_text(program, instruction.label),
                                      "`: the card of ", kind_name(instruction.args), " has it ",
                                      written ? "write " : "read ", end, " bytes of space ",
                                      o.space, ", which is ",
                                      is_output(o.space) ? "an output" : "an input", " of ", size));
      });
}

inline std::vector<simt::Region> regions_of(const Program& program, const Call& call,
                                            size_t table_bytes) {
  const bool adapt = program.settings.mode == Mode::adapt;
  const size_t bytes = program.settings.dtype == Dtype::f32 ? 4 : 8;
  const Network& network = program.network;
  std::vector<size_t> sizes(static_cast<size_t>(spaces_of(program)));
  const auto set = [&](int space, int64_t numbers, size_t each) {
    sizes[static_cast<size_t>(space)] = static_cast<size_t>(numbers) * each;
  };
  const size_t target = network.loss_op->reads_classes() ? sizeof(int64_t) : bytes;
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

  const auto is_output = [&](int s) {
    return s == kLogits || s == kLosses || s == kRateDots || s >= first_output;
  };
  check_cards(program, call, sizes, is_output);
  std::vector<simt::Region> regions{{"the workspace", call.workspace, call.workspace_bytes, true},
                                    {"the tables' counter", call.tables, 16, true},
                                    {"the program's tables", call.tables, table_bytes, false}};
  for_each_space(program, call, [&](int s, const void* pointer) {
    if (pointer)
      regions.push_back(
          {"space " + std::to_string(s), pointer, sizes[static_cast<size_t>(s)], is_output(s)});
  });
  return regions;
}

}  // namespace fastmaml
