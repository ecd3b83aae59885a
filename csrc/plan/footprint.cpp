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

// visit(whatever the card says that this holds, beside itself)
template <class Holder, class Visit>
void visit_held(const Holder& holder, Visit&& visit) {
  if constexpr (requires { holder.holds(visit); })
    holder.holds(visit);
  else
    static_assert(std::is_trivially_copyable_v<Holder>, "what this holds must be counted");
}

// What it holds alone.
struct Own {
  size_t total = 0;
  template <class Item>
  void operator()(const std::vector<Item>& items) {
    total += room(items);
    for (const Item& item : items) visit_held(item, *this);
  }
  template <class Holder>
  void operator()(const Holder& holder) {
    visit_held(holder, *this);
  }
  template <class Map>
  void operator()(const std::shared_ptr<const Map>&) {}
};

// What it holds with others, where no other was counted before.
class Maps {
 public:
  size_t total = 0;
  template <class Item>
  void operator()(const std::vector<Item>&) {}
  template <class Map>
  void operator()(const std::shared_ptr<const Map>& map) {
    constexpr size_t kCounts = 16;  // of those who share it
    if (!seen_.insert(map.get()).second) return;
    Own own;
    own(*map);
    total += block_bytes(sizeof(Map) + kCounts) + own.total;
  }

 private:
  std::set<const void*> seen_;
};

}  // namespace

size_t args_bytes(const Args& args) {
  return visit_args(
      [](const auto& any) {
        Own own;
        visit_held(any, own);
        return block_bytes(sizeof(any)) + own.total;
      },
      args);
}

size_t footprint(const Program& program) {
  Maps maps;
  size_t total = all(program.decisions) + all(program.names) + room(program.network);
  for (const auto* section :
       {&program.prologue, &program.body, &program.commit, &program.epilogue}) {
    total += room(*section);
    for (const Instruction& instruction : *section) {
      total += args_bytes(instruction.args);
      visit_args([&](const auto& args) { visit_held(args, maps); }, instruction.args);
    }
  }
  return total + maps.total;
}

}  // namespace fastmaml
