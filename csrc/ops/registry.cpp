#include "ops/registry.hpp"

#include <map>
#include <memory>
#include <type_traits>

#include "ops/list.hpp"

namespace fastmaml {
namespace {

template <class Base>
using Table = std::map<std::string, std::unique_ptr<const Base>>;

// By every name that its card has for it.
template <class Base, class Listed>
void enter(Table<Base>& table) {
  if constexpr (!std::is_base_of_v<Base, Listed>) {
    return;
  } else if constexpr (requires { Listed::kNames; }) {
    for (const auto& [name, kind] : Listed::kNames) table[name] = std::make_unique<Listed>(kind);
  } else {
    table[Listed::kName] = std::make_unique<Listed>();
  }
}

template <class Base, class... Listed>
Table<Base> table_of(TypeList<Listed...>) {
  Table<Base> table;
  (enter<Base, Listed>(table), ...);
  return table;
}

const Table<Op>& ops() {
  static const Table<Op> table = table_of<Op>(OpList());
  return table;
}

const Table<LossOp>& losses() {
  static const Table<LossOp> table = table_of<LossOp>(OpList());
  return table;
}

template <class Base>
const Base* find(const Table<Base>& table, const std::string& name) {
  auto found = table.find(name);
  return found == table.end() ? nullptr : found->second.get();
}

template <class Base>
std::vector<std::string> names(const Table<Base>& table) {
  std::vector<std::string> all;
  for (const auto& [name, op] : table) all.push_back(name);
  return all;
}

}  // namespace

const Op* find_op(const std::string& name) { return find(ops(), name); }
const LossOp* find_loss(const std::string& name) { return find(losses(), name); }

std::vector<std::string> op_names() { return names(ops()); }
std::vector<std::string> loss_names() { return names(losses()); }

}  // namespace fastmaml
