#include "engine/device_cost.hpp"

#include <algorithm>
#include <map>
#include <tuple>

#include "cuda/layout.hpp"
#include "plan/scalars.hpp"

namespace fastmaml {
namespace {

class Count {
 public:
  Count(const Program& program, int64_t tasks, int64_t rounds, bool resident)
      : number_(element_bytes(program.settings)),
        tasks_(tasks),
        rounds_(rounds),
        resident_(resident) {}

  // Sections that run once a call, for one task that stands for all.
  void once(const std::vector<Instruction>& section) {
    for (const Instruction& instruction : section) add(instruction, 1, 1);
  }
  // Sections that run in every round, for its tasks.
  void in_rounds(const std::vector<Instruction>& section) {
    for (const Instruction& instruction : section) add(instruction, tasks_, rounds_);
  }
  void add_words(int64_t launches, int64_t words) {
    kinds_["words"] = {"words", launches, 0, static_cast<double>(words * 8)};
  }
  std::vector<KindCost> kinds() const {
    std::vector<KindCost> all;
    for (const auto& [name, cost] : kinds_) all.push_back(cost);
    return all;
  }

 private:
  void add(const Instruction& instruction, int64_t tasks, int64_t times) {
    const std::string name = kind_name(instruction.args);
    KindCost& cost = kinds_[name];
    cost.kind = name;
    cost.instructions += times;
    cost.flops += flops(instruction.args) * static_cast<double>(tasks);
    visit_operands(instruction.args, [&](const Operand& o, Amount amount, bool written) {
      const int64_t each = o.stride == 0 ? times : tasks;
      const auto bytes = static_cast<double>(amount.bytes(number_) * each);
      cost.bytes += resident_ ? first_touch(o, written, bytes) : bytes;
    });
  }

  // What of an array the resident kernel has not yet moved; its arenas and scalars lie on chip.
  double first_touch(const Operand& o, bool written, double bytes) {
    if (o.space == kTransient || o.space == kShared || o.space == kScalars) return 0;
    double& seen = seen_[{o.space, o.offset, o.shift, written}];
    const double more = std::max(0.0, bytes - seen);
    seen += more;
    return more;
  }

  int64_t number_, tasks_, rounds_;
  bool resident_;
  std::map<std::string, KindCost> kinds_;
  std::map<std::tuple<int32_t, int64_t, int64_t, bool>, double> seen_;
};

}  // namespace

DeviceCost device_cost(const Program& program, int64_t tasks, int lanes, int team,
                       int64_t shared_limit) {
  const DeviceLayout layout = layout_of(program, tasks, lanes);
  const char* obstacle = resident_obstacle(program, layout, tasks, team, shared_limit);
  DeviceCost cost;
  if (obstacle) cost.obstacle = obstacle;
  cost.rounds = (tasks + layout.round - 1) / layout.round;
  cost.workspace_bytes = layout.total, cost.block_bytes = resident_bytes(program);
  Count count(program, tasks, cost.rounds, !obstacle);
  count.once(program.prologue);
  count.in_rounds(program.body), count.in_rounds(program.commit);
  count.once(program.epilogue);
  if (obstacle)
    count.add_words(word_launches(program),
                    spaces_of(program) + Scalars::count(program.settings.inner_steps));
  cost.kinds = count.kinds();
  int64_t instructions = 0;
  for (const KindCost& kind : cost.kinds) {
    instructions += kind.instructions;
    cost.flops += kind.flops, cost.bytes += kind.bytes;
  }
  if (obstacle) cost.kernels = instructions;
  return cost;
}

}  // namespace fastmaml
