// The arguments of an instruction: those of one of the kernels that ops/list.hpp has.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "ops/list.hpp"

namespace fastmaml {

// A value in a block of its own. The largest arguments are five times the size of the commonest: an
// instruction takes what its own have, not what any might.
template <class T>
class Boxed {
 public:
  using Value = T;
  Boxed(T value) : value_(std::make_unique<T>(std::move(value))) {}
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }

 private:
  std::unique_ptr<T> value_;
};

template <class... A, class... B>
TypeList<A..., B...> operator+(TypeList<A...>, TypeList<B...>);
// Of what is listed: a class's, or itself; none where an op has no kernel of its own.
template <class Listed>
auto args_of() {
  if constexpr (std::is_base_of_v<Card, Listed>)
    return TypeList<Listed>();
  else if constexpr (requires { typename Listed::KernelArgs; })
    return TypeList<typename Listed::KernelArgs>();
  else
    return TypeList<>();
}
template <class... Listed>
auto args_of(TypeList<Listed...>) -> decltype((args_of<Listed>() + ...));
template <class... A>
std::variant<Boxed<A>...> boxed(TypeList<A...>);

using Args = decltype(boxed(args_of(OpList())));

inline constexpr size_t kArgsCount = std::variant_size_v<Args>;
// The struct of an index.
template <size_t I>
using ArgsAt = typename std::variant_alternative_t<I, Args>::Value;

// The arguments if they are of this struct, else null.
template <class A>
A* args_if(Args& args) {
  auto* found = std::get_if<Boxed<A>>(&args);
  return found ? &**found : nullptr;
}
template <class A>
const A* args_if(const Args& args) {
  const auto* found = std::get_if<Boxed<A>>(&args);
  return found ? &**found : nullptr;
}

// visit(the struct), whichever it is.
template <class Visit, class AnyArgs>
decltype(auto) visit_args(Visit&& visit, AnyArgs& args) {
  return std::visit([&](auto& boxed) -> decltype(auto) { return visit(*boxed); }, args);
}

// What the card says of an instruction's arguments, whichever they are; see ops/card.hpp.
const char* kind_name(const Args& args);
bool is_resident(const Args& args);
void settle(Args& args);
double flops(const Args& args);
size_t scratch_bytes(const Args& args, int64_t number);
int phases(const Args& args);
InPlace in_place(const Args& args);
std::string details(const Args& args);
// Absent operands are no arrays and not visited.
void visit_operands(Args& args, const std::function<void(Operand&, Amount, bool written)>& to);
void visit_operands(const Args& args,
                    const std::function<void(const Operand&, Amount, bool written)>& to);

}  // namespace fastmaml
