#include "plan/fuse.hpp"

#include <algorithm>

namespace fastmaml {
namespace {

// Where a buffer is named in the body.
struct Mentions {
  std::vector<size_t> writes, reads;  // instruction numbers, ascending; a cin that is c is both
  bool committed = false;
};

std::vector<Mentions> find_mentions(const Program& program, size_t buffers) {
  std::vector<Mentions> mentions(buffers);
  for (size_t i = 0; i < program.body.size(); ++i)
    visit_operands(program.body[i].args, [&](const Operand& o, Amount, bool written) {
      if (o.buffer >= 0)
        (written ? mentions[o.buffer].writes : mentions[o.buffer].reads).push_back(i);
    });
  for (const Instruction& instruction : program.commit)
    visit_operands(instruction.args, [&](const Operand& o, Amount, bool) {
      if (o.buffer >= 0) mentions[o.buffer].committed = true;
    });
  return mentions;
}

// The operand that a relu passes through its gate.
const Operand& gated_input(const PointwiseArgs& relu) {
  switch (relu.pass) {
    case PassKind::forward:
      return relu.z;
    case PassKind::backward:
      return relu.y_bar;
    case PassKind::forward_jvp:
      return relu.x_dot;
    case PassKind::backward_jvp:
      break;
  }
  return relu.y_bar_dot;
}

// The contraction that may take over the gate of instruction `at`, or null: the last writer of its
// input, if all that name the input before are contractions that accumulate into it.
ContractArgs* find_writer(Program& program, const Mentions& input, size_t at) {
  if (input.committed || input.writes.empty() || input.writes.back() >= at) return nullptr;
  for (size_t read : input.reads) {
    if (read == at) continue;
    auto* contract = args_if<ContractArgs>(program.body[read].args);
    if (!contract || !(contract->cin == contract->c)) return nullptr;
    for (const ContractTerm& term : contract->terms)
      if (term.a == contract->c || term.b == contract->c) return nullptr;
    if (!std::ranges::binary_search(input.writes, read)) return nullptr;
  }
  for (size_t write : input.writes)
    if (!args_if<ContractArgs>(program.body[write].args)) return nullptr;
  auto* writer = args_if<ContractArgs>(program.body[input.writes.back()].args);
  return writer->gate == Gate::open ? writer : nullptr;
}

}  // namespace

void fuse_relu(Program& program, size_t buffers) {
  const std::vector<Mentions> mentions = find_mentions(program, buffers);
  std::vector<bool> gone(program.body.size(), false);
  for (size_t i = 0; i < program.body.size(); ++i) {
    auto* relu = args_if<PointwiseArgs>(program.body[i].args);
    if (!relu || relu->kind != PointwiseKind::relu || relu->cin) continue;
    const Operand input = gated_input(*relu);
    if (input.buffer < 0 || relu->out.stride != input.stride) continue;
    ContractArgs* writer = find_writer(program, mentions[input.buffer], i);
    if (!writer || writer->c.stride != writer->m * writer->c_row) continue;
    if (writer->n != writer->c_row) continue;  // it writes a part of the columns
    writer->c = relu->out;
    writer->gate = relu->pass == PassKind::forward ? Gate::itself : Gate::operand;
    if (relu->pass != PassKind::forward) writer->gate_by = relu->z;
    gone[i] = true;
  }
  std::vector<Instruction> kept;  // no larger than it need be: plans are kept in numbers
  kept.reserve(static_cast<size_t>(std::ranges::count(gone, false)));
  for (size_t i = 0; i < program.body.size(); ++i)
    if (!gone[i]) kept.push_back(std::move(program.body[i]));
  program.body = std::move(kept);
}

}  // namespace fastmaml
