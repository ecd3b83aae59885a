#include "plan/first_fit.hpp"

#include <algorithm>

namespace fastmaml {

void TakenRuns::take(int64_t begin, int64_t end) {
  // Those that overlap or touch the new one become a part of it.
  const auto from = std::ranges::lower_bound(runs_, begin, {}, &Run::end);
  const auto to = std::ranges::upper_bound(from, runs_.end(), end, {}, &Run::begin);
  if (from == to) {
    runs_.insert(from, {begin, end});
    return;
  }
  from->begin = std::min(from->begin, begin);
  from->end = std::max((to - 1)->end, end);
  runs_.erase(from + 1, to);
}

int64_t TakenRuns::after(int64_t offset, int64_t size) const {
  const auto run = std::ranges::upper_bound(runs_, offset, {}, &Run::end);
  return run == runs_.end() || offset + size <= run->begin ? offset : run->end;
}

FirstFit::FirstFit(int instructions) : instructions_(instructions) {
  size_t leaves = 1;
  while (leaves < static_cast<size_t>(instructions)) leaves *= 2;
  stretches_.resize(2 * leaves);
}

void FirstFit::find_obstacles(int node, int begin, int end) {
  if (last_ < begin || end <= first_) return;
  const bool inside = first_ <= begin && end <= last_ + 1;
  const Stretch& stretch = stretches_[static_cast<size_t>(node)];
  const TakenRuns& runs = inside ? stretch.some : stretch.whole;
  if (!runs.empty()) obstacles_.push_back(&runs);
  if (inside || stretch.some.empty()) return;
  const int middle = begin + (end - begin) / 2;
  find_obstacles(2 * node, begin, middle);
  find_obstacles(2 * node + 1, middle, end);
}

void FirstFit::take(int node, int begin, int end) {
  if (last_ < begin || end <= first_) return;
  Stretch& stretch = stretches_[static_cast<size_t>(node)];
  stretch.some.take(offset_, offset_ + size_);
  if (first_ <= begin && end <= last_ + 1) return stretch.whole.take(offset_, offset_ + size_);
  const int middle = begin + (end - begin) / 2;
  take(2 * node, begin, middle);
  take(2 * node + 1, middle, end);
}

int64_t FirstFit::place(int first, int last, int64_t size) {
  first_ = first, last_ = last, size_ = size, offset_ = 0;
  obstacles_.clear();
  find_obstacles(1, 0, instructions_);
  // Until all of them, one after another, leave room.
  for (size_t i = 0, clear = 0; clear < obstacles_.size(); i = (i + 1) % obstacles_.size()) {
    const int64_t after = obstacles_[i]->after(offset_, size_);
    clear = after == offset_ ? clear + 1 : 0;
    offset_ = after;
    ++lookups_;
  }
  take(1, 0, instructions_);
  top_ = std::max(top_, offset_ + size_);
  return offset_;
}

}  // namespace fastmaml
