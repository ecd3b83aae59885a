// A program as device code reads it: flat arguments and the tables they point into, in one run of
// bytes that can be copied to any device. Offsets take the place of pointers.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "cuda/resident.hpp"
#include "ops/contract/contract_device.hpp"
#include "plan/program.hpp"

namespace fastmaml {

// The bytes under construction. Every table begins on 16 bytes.
class Tables {
 public:
  template <class Item>
  int64_t add(const Item* items, size_t count) {
    static_assert(std::is_trivially_copyable_v<Item>);
    const size_t at = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(at + count * sizeof(Item));
    if (count > 0) std::memcpy(bytes_.data() + at, items, count * sizeof(Item));
    return static_cast<int64_t>(at);
  }
  template <class Item>
  int64_t add(const std::vector<Item>& items) {
    return add(items.data(), items.size());
  }
  const std::vector<char>& bytes() const { return bytes_; }

 private:
  std::vector<char> bytes_;
};

// What arguments become: themselves where they are flat.
template <class A>
const A& lower(const A& args, Tables&) {
  static_assert(std::is_trivially_copyable_v<A>, "these arguments need a form without pointers");
  return args;
}
DeviceContractArgs lower(const ContractArgs& args, Tables& tables);
struct PendingArgs {
  int x;
};
inline PendingArgs lower(const ConvArgs&, Tables&) { return {}; }
inline PendingArgs lower(const PoolArgs&, Tables&) { return {}; }
inline PendingArgs lower(const PatchArgs&, Tables&) { return {}; }

template <class A>
using DeviceArgs =
    std::remove_cvref_t<decltype(lower(std::declval<const A&>(), std::declval<Tables&>()))>;

struct DeviceInstruction {
  int32_t kind = 0;     // index of the alternative in Args
  bool shared = false;  // its outputs are shared by all tasks: one team for the whole round
  int64_t args = 0;     // where its DeviceArgs stand
};

// The first alternatives of Args: contractions, transposes, pointwise ops, batch norm and losses,
// which multilayer perceptrons are made of. More would only weigh the resident kernel down.
constexpr int kResidentKinds = 7;

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
