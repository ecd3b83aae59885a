// A program as device code reads it: flat arguments and the tables they point into, in one run of
// bytes that can be copied to any device. Offsets take the place of pointers.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda/forms.hpp"
#include "cuda/layout.hpp"
#include "cuda/resident.hpp"
#include "ops/contract/contract_device.hpp"
#include "ops/conv2d/conv2d_device.hpp"
#include "ops/patches/patches_device.hpp"
#include "ops/pool2d/pool2d_device.hpp"
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
  // The same for tables that many instructions read: equal ones are stored once.
  template <class Item>
  int64_t add_once(const std::vector<Item>& items) {
    const std::string_view wanted(reinterpret_cast<const char*>(items.data()),
                                  items.size() * sizeof(Item));
    const size_t key = std::hash<std::string_view>{}(wanted);
    const auto [begin, end] = known_.equal_range(key);
    for (auto at = begin; at != end; ++at)
      if (std::string_view(bytes_.data() + at->second.first, at->second.second) == wanted)
        return at->second.first;
    const int64_t added = add(items);
    known_.emplace(key, std::pair(added, wanted.size()));
    return added;
  }
  // Fills the last 16 bytes.
  void close() { bytes_.resize((bytes_.size() + 15) / 16 * 16); }
  const std::vector<char>& bytes() const { return bytes_; }

 private:
  std::vector<char> bytes_;
  std::unordered_multimap<size_t, std::pair<int64_t, size_t>> known_;  // offset and size, by hash
};

// What arguments become: themselves where they are flat.
template <class A>
const A& lower(const A& args, Tables&) {
  static_assert(std::is_trivially_copyable_v<A>, "these arguments need a form without pointers");
  return args;
}
DeviceContractArgs lower(const ContractArgs& args, Tables& tables);
DeviceConvArgs lower(const ConvArgs& args, Tables& tables);
DevicePatchArgs lower(const PatchArgs& args, Tables& tables);
DevicePoolArgs lower(const PoolArgs& args, Tables& tables);

template <class A>
using DeviceArgs =
    std::remove_cvref_t<decltype(lower(std::declval<const A&>(), std::declval<Tables&>()))>;

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
