// A program as device code reads it: flat arguments and the tables they point into, in one run of
// bytes that can be copied to any device. Offsets take the place of pointers.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "ops/contract/contract_device.hpp"
#include "ops/patches/patches_device.hpp"
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
DevicePatchArgs lower(const PatchArgs& args, Tables& tables);
struct PendingArgs {
  int x;
};
inline PendingArgs lower(const ConvArgs&, Tables&) { return {}; }
inline PendingArgs lower(const PoolArgs&, Tables&) { return {}; }

template <class A>
using DeviceArgs =
    std::remove_cvref_t<decltype(lower(std::declval<const A&>(), std::declval<Tables&>()))>;

struct DeviceInstruction {
  int32_t kind = 0;     // index of the alternative in Args
  bool shared = false;  // its outputs are shared by all tasks: one team for the whole round
  int64_t args = 0;     // where its DeviceArgs stand
};

struct DeviceProgram {
  Tables tables;
  std::vector<DeviceInstruction> prologue, body, commit, epilogue;
  explicit DeviceProgram(const Program& program);
};

}  // namespace fastmaml
