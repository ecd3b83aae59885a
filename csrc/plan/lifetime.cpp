#include "plan/lifetime.hpp"

#include <algorithm>
#include <numeric>

#include "core/error.hpp"
#include "plan/first_fit.hpp"

namespace fastmaml {
namespace {

// Offsets are multiples of 16 numbers, so that every buffer starts on a cache line whatever the
// capacity it is multiplied by.
constexpr int64_t kGrain = 16;

int64_t padded(int64_t numel) { return (numel + kGrain - 1) / kGrain * kGrain; }

struct Range {
  int first = -1, last = -1;
  bool committed = false;
  int32_t space = kTransient;
  int64_t offset = 0;
};

template <class Visit>
void visit_operands(Instruction& instruction, Visit&& visit) {
  visit_args([&](auto& args) { args.visit([&](Operand& o, bool) { visit(o); }); },
             instruction.args);
}

// An arena holds what earlier calls left there: no instruction may read what none before it wrote.
void check_written(Program& program, size_t buffers) {
  std::vector<bool> written(buffers, false);
  for (auto* section : {&program.prologue, &program.body, &program.commit, &program.epilogue})
    for (Instruction& instruction : *section) {
      auto look = [&](auto& args) {
        args.visit([&](Operand& o, bool writes) {
          if (o.buffer >= 0 && !writes && !written[o.buffer])
            throw InternalError(message("`", label_text(program, instruction.label),
                                        "` reads what no instruction before it has written"));
        });
        args.visit([&](Operand& o, bool writes) {
          if (o.buffer >= 0 && writes) written[o.buffer] = true;
        });
      };
      visit_args(look, instruction.args);
    }
}

std::vector<Range> live_ranges(Program& program, size_t buffers) {
  std::vector<Range> ranges(buffers);
  for (size_t i = 0; i < program.body.size(); ++i)
    visit_operands(program.body[i], [&](Operand& o) {
      if (o.buffer < 0) return;
      Range& range = ranges[o.buffer];
      if (range.first < 0) range.first = static_cast<int>(i);
      range.last = static_cast<int>(i);
    });
  for (Instruction& instruction : program.commit)
    visit_operands(instruction, [&](Operand& o) {
      if (o.buffer >= 0) ranges[o.buffer].committed = true;
    });
  return ranges;
}

// What an instruction that works number by number may write its output over: operands laid out as
// the output, of which each number is read before the output's own is written and by nothing else.
struct Elementwise {
  Operand* out = nullptr;
  std::vector<Operand*> in;
};

Elementwise elementwise(Instruction& instruction) {
  if (auto* a = args_if<PointwiseArgs>(instruction.args))
    return {&a->out, {&a->y_bar_dot, &a->y_bar, &a->x_dot, &a->z}};
  auto* a = args_if<BatchNormArgs>(instruction.args);
  if (!a) return {};
  const bool forwards = a->pass == PassKind::forward || a->pass == PassKind::forward_jvp;
  if (forwards && a->pool) return {};
  if (a->pool) return {&a->out, {&a->x_dot, &a->x}};
  return {&a->out, {&a->y_bar_dot, &a->x_dot, &a->y_bar, &a->x}};
}

// Lets outputs take the place of inputs that are read for the last time: to[id] is the buffer whose
// memory id has, and that buffer's range becomes the union of both.
std::vector<int> merge_in_place(Program& program, std::vector<Range>& ranges,
                                const std::vector<int64_t>& numels,
                                const std::vector<bool>& shared) {
  std::vector<int> to(ranges.size());
  std::iota(to.begin(), to.end(), 0);
  for (int i = 0; i < static_cast<int>(program.body.size()); ++i) {
    const Elementwise e = elementwise(program.body[i]);
    if (!e.out || e.out->buffer < 0 || e.out->shift != 0) continue;
    const int out = e.out->buffer;
    if (ranges[out].first != i || ranges[out].committed || shared[out]) continue;
    for (const Operand* operand : e.in) {
      if (operand->buffer < 0 || operand->shift != 0) continue;
      const int in = to[operand->buffer];
      if (numels[in] != numels[out] || ranges[in].last != i || ranges[in].committed || shared[in])
        continue;
      to[out] = in, ranges[in].last = ranges[out].last;
      break;
    }
  }
  return to;
}

// First fit, largest buffers first.
int64_t place_transient(std::vector<Range>& ranges, const std::vector<int64_t>& numels,
                        std::vector<int> order, size_t instructions, Poller& poll) {
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return numels[a] != numels[b] ? numels[a] > numels[b] : a < b; });
  FirstFit arena(static_cast<int>(instructions));
  for (int id : order) {
    poll();
    ranges[id].offset = arena.place(ranges[id].first, ranges[id].last, padded(numels[id]));
  }
  return arena.top();
}

}  // namespace

void place_buffers(Program& program, const std::vector<int64_t>& numels,
                   const std::vector<bool>& shared, Poller& poll) {
  check_written(program, numels.size());
  std::vector<Range> ranges = live_ranges(program, numels.size());
  const std::vector<int> merged = merge_in_place(program, ranges, numels, shared);
  std::vector<int> transient;
  for (size_t id = 0; id < numels.size(); ++id) {
    Range& range = ranges[id];
    Arena* arena = shared[id] ? &program.shared : range.committed ? &program.keep : nullptr;
    if (arena) {
      range.space = shared[id] ? kShared : kKeep;
      range.offset = arena->elements;
      arena->elements += padded(numels[id]);
    } else if (range.first >= 0 && merged[id] == static_cast<int>(id)) {
      transient.push_back(static_cast<int>(id));
    }
  }
  program.transient.elements =
      place_transient(ranges, numels, std::move(transient), program.body.size(), poll);
  auto resolve = [&](Operand& o) {
    if (o.buffer < 0) return;
    const Range& range = ranges[merged[o.buffer]];
    o.space = range.space, o.offset = range.offset;
  };
  for (auto* section : {&program.prologue, &program.body, &program.commit, &program.epilogue})
    for (Instruction& instruction : *section) visit_operands(instruction, resolve);
}

}  // namespace fastmaml
