#include "plan/draft.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "plan/footprint.hpp"
#include "plan/fuse.hpp"
#include "plan/lifetime.hpp"

namespace fastmaml {
namespace {}  // namespace

void Draft::label(const std::string& name, int step) {
  const auto [found, added] = names_.try_emplace(name, static_cast<int32_t>(program_.names.size()));
  if (added) program_.names.push_back(name);
  label_ = {found->second, step};
}

void Draft::append(std::vector<Instruction>& section, Args args) {
  settle(args);
  bytes_ += static_cast<int64_t>(sizeof(Instruction) + args_bytes(args));
  const Settings& s = program_.settings;
  // Less than half is fused away in the end.
  if (s.most_bytes > 0 && bytes_ / 2 > s.most_bytes)
    throw SettingError(message("the program of inner_steps=", s.inner_steps, " must have at most ",
                               s.most_bytes, " bytes, and has more; raise max_workspace_bytes or ",
                               "give fewer inner steps"));
  section.push_back({std::move(args), label_});
}

int64_t Draft::runs(int64_t pixels, int64_t blocks) const {
  // Each costs a write and a read of the sums, and a task need not fill a device twice.
  constexpr int64_t kMostRuns = 64, kMostBlocks = 256;
  const int64_t wanted = settings().device ? pixels / settings().run_pixels : 1;
  const int64_t most = std::min(kMostRuns, kMostBlocks / blocks);
  const int64_t runs = std::max<int64_t>(1, std::min(wanted, most));
  const int64_t run = (pixels + runs - 1) / runs;
  return (pixels + run - 1) / run;
}

Operand Draft::buffer(int64_t numel, bool shared) {
  Operand o;
  o.buffer = static_cast<int32_t>(buffers_.size());
  o.stride = shared ? 0 : numel;
  buffers_.push_back({numel, shared});
  return o;
}

void Draft::place(Poller& poll) {
  fuse_relu(program_, buffers_.size());
  std::vector<int64_t> numels;
  std::vector<bool> shared;
  for (const Buffer& buffer : buffers_) {
    numels.push_back(buffer.numel);
    shared.push_back(buffer.shared);
  }
  place_buffers(program_, numels, shared, poll);
}

}  // namespace fastmaml
