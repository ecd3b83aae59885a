// The tables of a program in the form that device code reads: one run of bytes that can be copied
// to any device. Offsets take the place of pointers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

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

}  // namespace fastmaml
