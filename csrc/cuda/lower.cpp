#include "cuda/lower.hpp"

namespace fastmaml {
namespace {

// Whether what an instruction writes lies in the arena that all tasks share.
bool writes_shared(const Instruction& instruction) {
  bool shared = false;
  visit_operands(instruction.args, [&](const Operand& o, Amount, bool written) {
    shared = shared || (written && o.space == kShared);
  });
  return shared;
}

// Where the arguments stand in the tables.
template <class A>
int64_t lower(const A& args, Tables& tables) {
  if constexpr (std::is_same_v<A, DeviceArgs<A>>)
    return tables.add(&args, 1);
  else
    return args.lower(tables);
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
            to.push_back({static_cast<int32_t>(instruction.args.index()), shared,
                          depth_split(program.settings, instruction), lower(args, tables)});
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
