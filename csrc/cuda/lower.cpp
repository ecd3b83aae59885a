#include "cuda/lower.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "cuda/forms.hpp"
#include "ops/window/stencil_device.hpp"

namespace fastmaml {

namespace {

// Device code counts rows, columns and strides of a task in 32 bits, with room to step past them.
void check_sizes(const ContractArgs& args) {
  int64_t most = std::max({args.m, args.n, args.c_row, args.cin_row});
  for (const ContractTerm& term : args.terms) {
    most = std::max({most, term.k, term.a_row, term.a_col, term.b_row, term.b_col});
    if (args.c.stride == 0) most = std::max({most, term.a.stride, term.b.stride});
  }
  if (most >= int64_t{1} << 30)
    throw ShapeError(
        message("on a device a task must have fewer than 2^30 parameters, and rows of ",
                "fewer numbers, got ", most, "; use a smaller model or the CPU"));
}

}  // namespace

DeviceContractArgs lower(const ContractArgs& args, Tables& tables) {
  check_sizes(args);
  DeviceContractArgs to;
  to.c = args.c, to.cin = args.cin, to.gate_by = args.gate_by;
  to.c_row = args.c_row, to.cin_row = args.cin_row, to.m = args.m, to.n = args.n;
  to.scale = args.scale, to.gate = args.gate;
  to.terms = tables.add(args.terms);
  to.count = static_cast<int32_t>(args.terms.size());
  to.form = contract_form(args);
  to.runs = static_cast<int32_t>(args.runs);
  to.run = static_cast<int32_t>((contract_depth(args) + args.runs - 1) / args.runs);
  return to;
}

DevicePatchArgs lower(const PatchArgs& args, Tables& tables) {
  const Stencil& stencil = *args.stencil;
  return {args.x,       args.out,          args.images,         args.channels,
          stencil.taps, stencil.to_pixels, stencil.from_pixels, stencil_table(tables, stencil)};
}

namespace {

// Whether what an instruction writes lies in the arena that all tasks share.
bool writes_shared(const Instruction& instruction) {
  bool shared = false;
  visit_args(
      [&](const auto& args) {
        auto copy = args;  // visits are for whoever may change the operands
        copy.visit([&](Operand& o, bool written) {
          if (written && o.space == kShared) shared = true;
        });
      },
      instruction.args);
  return shared;
}

}  // namespace

void DeviceProgram::list_for_resident(const Program& program) {
  resident = resident_knows(program);
  if (!resident) return;
  std::vector<DeviceInstruction> own, last;
  for (size_t i = 0; i < prologue.size(); ++i)
    (writes_shared(program.prologue[i]) ? own : last).push_back(prologue[i]);
  last.insert(last.end(), commit.begin(), commit.end());
  const auto list = [&](const std::vector<DeviceInstruction>& instructions) {
    return DeviceList{tables.add(instructions), static_cast<int64_t>(instructions.size())};
  };
  resident_prologue = list(own), resident_body = list(body), resident_last = list(last);
}

DeviceProgram::DeviceProgram(const Program& program) {
  constexpr uint32_t kCounter[4] = {};
  tables.add(kCounter, 4);
  const auto section = [&](const std::vector<Instruction>& from, bool shared,
                           std::vector<DeviceInstruction>& to) {
    for (const Instruction& instruction : from)
      visit_args(
          [&](const auto& args) {
            const auto& lowered = lower(args, tables);
            to.push_back({static_cast<int32_t>(instruction.args.index()), shared,
                          depth_split(program.settings, instruction), tables.add(&lowered, 1)});
          },
          instruction.args);
  };
  section(program.prologue, true, prologue);
  section(program.body, false, body);
  section(program.commit, true, commit);
  section(program.epilogue, true, epilogue);
  list_for_resident(program);
  tables.close();
}

}  // namespace fastmaml
