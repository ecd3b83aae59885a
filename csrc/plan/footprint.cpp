#include "plan/footprint.hpp"

#include <set>
#include <type_traits>

namespace fastmaml {
namespace {

template <class Item>
size_t room(const std::vector<Item>& items) {
  return block_bytes(items.capacity() * sizeof(Item));
}
size_t room(const std::string& text) {
  const bool inside = text.capacity() < sizeof(std::string) / 2;  // as short texts are
  return inside ? 0 : block_bytes(text.capacity() + 1);
}
size_t room(const TensorSpec& tensor) { return room(tensor.name) + room(tensor.shape); }
size_t room(const Node& node);

// A vector and what its items hold.
template <class Item>
size_t all(const std::vector<Item>& items) {
  size_t total = room(items);
  for (const Item& item : items) total += room(item);
  return total;
}

size_t room(const Stencil& stencil) {
  size_t total = room(stencil.classes);
  for (const PixelClass& pixels : stencil.classes)
    total += room(pixels.taps) + room(pixels.stretches) + room(pixels.pixels);
  return total;
}
size_t room(const PoolMap& map) { return room(map.gather) + room(map.scatter) + room(map.weights); }

size_t room(const Node& node) {
  constexpr size_t kLinks = 4 * sizeof(void*);  // of a tree's node, beside what it holds
  size_t total = room(node.op_name) + room(node.name) + room(node.inputs) + all(node.in_shapes) +
                 room(node.shape) + room(node.params);
  for (const auto& attr : node.attrs)
    total += block_bytes(sizeof(attr) + kLinks) + room(attr.first);
  return total;
}
size_t room(const Network& network) {
  return all(network.tensors) + all(network.nodes) + all(network.value_shapes) +
         (network.moves.capacity() + network.learns.capacity()) / 8 + room(network.loss);
}

// What arguments hold beside themselves: alone, and with other instructions.
template <class A>
size_t own(const A&) {
  static_assert(std::is_trivially_copyable_v<A>, "what these arguments hold must be counted");
  return 0;
}
size_t own(const ContractArgs& args) { return room(args.terms); }
size_t own(const ConvArgs& args) { return room(args.terms); }
size_t own(const PatchArgs&) { return 0; }
size_t own(const PoolArgs&) { return 0; }

class Maps {
 public:
  template <class A>
  size_t first_seen(const A&) {
    return 0;
  }
  size_t first_seen(const ConvArgs& args) { return once(args.stencil); }
  size_t first_seen(const PatchArgs& args) { return once(args.stencil); }
  size_t first_seen(const PoolArgs& args) { return once(args.map); }

 private:
  template <class Map>
  size_t once(const std::shared_ptr<const Map>& map) {
    constexpr size_t kCounts = 16;  // of those who share it
    return seen_.insert(map.get()).second ? block_bytes(sizeof(Map) + kCounts) + room(*map) : 0;
  }

  std::set<const void*> seen_;
};

}  // namespace

size_t args_bytes(const Args& args) {
  return visit_args([](const auto& any) { return block_bytes(sizeof(any)) + own(any); }, args);
}

size_t footprint(const Program& program) {
  Maps maps;
  size_t total = all(program.decisions) + all(program.names) + room(program.network);
  for (const auto* section :
       {&program.prologue, &program.body, &program.commit, &program.epilogue}) {
    total += room(*section);
    for (const Instruction& instruction : *section)
      total +=
          args_bytes(instruction.args) +
          visit_args([&](const auto& args) { return maps.first_seen(args); }, instruction.args);
  }
  return total;
}

}  // namespace fastmaml
