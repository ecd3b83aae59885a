// A program as device code reads it: flat arguments and the tables they point into, see
// cuda/tables.hpp.
#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

#include "cuda/forms.hpp"
#include "cuda/layout.hpp"
#include "cuda/resident.hpp"
#include "cuda/tables.hpp"
#include "plan/program.hpp"

namespace fastmaml {

// What arguments become: themselves where they are flat, else what their card says.
template <class A>
struct Lowered {
  static_assert(std::is_trivially_copyable_v<A>, "these arguments need a form without pointers");
  using Args = A;
};
template <class A>
  requires requires { typename A::Device; }
struct Lowered<A> {
  using Args = typename A::Device;
};
template <class A>
using DeviceArgs = typename Lowered<A>::Args;

struct DeviceInstruction {
  int32_t kind = 0;     // index of the alternative in Args
  bool shared = false;  // its outputs are shared by all tasks: one team for the whole round
  DepthSplit split = DepthSplit::none;
  int64_t args = 0;  // where its DeviceArgs stand
};

struct DeviceProgram {
  Tables tables;  // begins with a counter that is 0 between calls, see cuda/resident.cuh
  std::vector<DeviceInstruction> prologue, body, commit, epilogue;
  // The same as the resident kernel runs it, where it can run it at all.
  bool resident = false;
  DeviceList resident_prologue, resident_body, resident_last;

  explicit DeviceProgram(const Program& program);

 private:
  void list_for_resident(const Program& program);
};

}  // namespace fastmaml
