// Runs a program on a device: launches, one for each instruction and round, replayed as one graph
// where the caller is not capturing a graph of its own.
//
//   words      where the call's memory lies, and its scalars, written into the workspace
//   prologue   then, round by round, body (a team of blocks for each task) and commit; epilogue
//
// Nothing here knows a layer. Without CUDA in the build, absent.cpp has the same functions.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "fastmaml.hpp"
#include "plan/program.hpp"

namespace fastmaml {

// A plan's programs for devices; made on first use, since most plans never see one.
class DevicePlan {
 public:
  explicit DevicePlan(const Program& program);
  ~DevicePlan();

  size_t workspace_bytes(int64_t tasks, int lanes) const;
  const std::vector<char>& tables() const;
  Executor run(const Call& call) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fastmaml
