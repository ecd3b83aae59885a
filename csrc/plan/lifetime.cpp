#include "plan/lifetime.hpp"

#include <algorithm>
#include <numeric>

#include "core/error.hpp"

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
  std::visit([&](auto& args) { args.visit([&](Operand& o, bool) { visit(o); }); },
             instruction.args);
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

// First fit, largest buffers first: the offset below which no placed neighbour in time lies.
int64_t place_transient(std::vector<Range>& ranges, const std::vector<int64_t>& numels,
                        std::vector<int> order) {
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return numels[a] != numels[b] ? numels[a] > numels[b] : a < b; });
  int64_t top = 0;
  std::vector<int> placed;
  for (int id : order) {
    Range& range = ranges[id];
    std::vector<std::pair<int64_t, int64_t>> taken;
    for (int other : placed)
      if (ranges[other].first <= range.last && range.first <= ranges[other].last)
        taken.emplace_back(ranges[other].offset, ranges[other].offset + padded(numels[other]));
    std::sort(taken.begin(), taken.end());
    int64_t offset = 0;
    for (const auto& [begin, end] : taken) {
      if (offset + padded(numels[id]) <= begin) break;
      offset = std::max(offset, end);
    }
    range.offset = offset;
    top = std::max(top, offset + padded(numels[id]));
    placed.push_back(id);
  }
  return top;
}

}  // namespace

void place_buffers(Program& program, const std::vector<int64_t>& numels,
                   const std::vector<bool>& shared) {
  std::vector<Range> ranges = live_ranges(program, numels.size());
  std::vector<int> transient;
  for (size_t id = 0; id < numels.size(); ++id) {
    Range& range = ranges[id];
    Arena* arena = shared[id] ? &program.shared : range.committed ? &program.keep : nullptr;
    if (arena) {
      range.space = shared[id] ? kShared : kKeep;
      range.offset = arena->elements;
      arena->elements += padded(numels[id]);
    } else if (range.first >= 0) {
      transient.push_back(static_cast<int>(id));
    }
  }
  program.transient.elements = place_transient(ranges, numels, std::move(transient));
  auto resolve = [&](Operand& o) {
    if (o.buffer < 0) return;
    o.space = ranges[o.buffer].space;
    o.offset = ranges[o.buffer].offset;
  };
  for (auto* section : {&program.prologue, &program.body, &program.commit, &program.epilogue})
    for (Instruction& instruction : *section) visit_operands(instruction, resolve);
}

}  // namespace fastmaml
