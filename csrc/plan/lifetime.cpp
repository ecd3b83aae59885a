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

// visit(operand) for each that is a buffer.
template <class Visit>
void visit_buffers(Instruction& instruction, Visit&& visit) {
  visit_operands(instruction.args, [&](Operand& o, Amount, bool) {
    if (o.buffer >= 0) visit(o);
  });
}

// An arena holds what earlier calls left there: no instruction may read what none before it wrote,
// nor touch more than its buffers.
void check_buffers(const Program& program, const std::vector<int64_t>& numels) {
  const int64_t number = element_bytes(program.settings);
  std::vector<bool> written(numels.size(), false);
  for (const auto* section : {&program.prologue, &program.body, &program.commit, &program.epilogue})
    for (const Instruction& instruction : *section) {
      const auto require = [&](bool holds, const char* otherwise) {
        if (!holds)
          throw InternalError(
              message("`", label_text(program, instruction.label), "` ", otherwise));
      };
      visit_operands(instruction.args, [&](const Operand& o, Amount amount, bool writes) {
        if (o.buffer < 0) return;
        require(writes || written[o.buffer], "reads what no instruction before it has written");
        require(o.shift * number + amount.bytes(number) <= numels[o.buffer] * number,
                "touches more than its buffer holds");
      });
      visit_operands(instruction.args, [&](const Operand& o, Amount, bool writes) {
        if (o.buffer >= 0 && writes) written[o.buffer] = true;
      });
    }
}

std::vector<Range> live_ranges(Program& program, size_t buffers) {
  std::vector<Range> ranges(buffers);
  for (size_t i = 0; i < program.body.size(); ++i)
    visit_buffers(program.body[i], [&](Operand& o) {
      Range& range = ranges[o.buffer];
      if (range.first < 0) range.first = static_cast<int>(i);
      range.last = static_cast<int>(i);
    });
  for (Instruction& instruction : program.commit)
    visit_buffers(instruction, [&](Operand& o) { ranges[o.buffer].committed = true; });
  return ranges;
}

// Lets outputs take the place of inputs that are read for the last time: to[id] is the buffer whose
// memory id has, and that buffer's range becomes the union of both.
std::vector<int> merge_in_place(Program& program, std::vector<Range>& ranges,
                                const std::vector<int64_t>& numels,
                                const std::vector<bool>& shared) {
  std::vector<int> to(ranges.size());
  std::iota(to.begin(), to.end(), 0);
  for (int i = 0; i < static_cast<int>(program.body.size()); ++i) {
    const InPlace may = in_place(program.body[i].args);
    if (!may.out || may.out->buffer < 0 || may.out->shift != 0) continue;
    const int out = may.out->buffer;
    if (ranges[out].first != i || ranges[out].committed || shared[out]) continue;
    for (const Operand* operand : may.in) {
      if (!operand || operand->buffer < 0 || operand->shift != 0) continue;
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
  check_buffers(program, numels);
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
    const Range& range = ranges[merged[o.buffer]];
    o.space = range.space, o.offset = range.offset;
  };
  for (auto* section : {&program.prologue, &program.body, &program.commit, &program.epilogue})
    for (Instruction& instruction : *section) visit_buffers(instruction, resolve);
}

}  // namespace fastmaml
