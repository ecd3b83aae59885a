// The argument structs of all kernels, one alternative for each (add an op: one line here).
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

#include "ops/batch_norm/batch_norm.hpp"
#include "ops/bce_with_logits/bce_with_logits.hpp"
#include "ops/contract/contract.hpp"
#include "ops/conv2d/conv2d.hpp"
#include "ops/cross_entropy/cross_entropy.hpp"
#include "ops/group_norm/group_norm.hpp"
#include "ops/mse/mse.hpp"
#include "ops/patches/patches.hpp"
#include "ops/permute/permute.hpp"
#include "ops/pointwise/pointwise.hpp"
#include "ops/pool2d/pool2d.hpp"
#include "ops/stem/stem.hpp"
#include "ops/taps/taps.hpp"
#include "ops/transpose/transpose.hpp"

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

template <class... A>
using BoxedOneOf = std::variant<Boxed<A>...>;

using Args = BoxedOneOf<ContractArgs, TransposeArgs, PointwiseArgs, BatchNormArgs, MseArgs,
                        CrossEntropyArgs, BceWithLogitsArgs, ConvArgs, PermuteArgs, PoolArgs,
                        GroupNormArgs, TapArgs, PatchArgs, StemArgs>;

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

}  // namespace fastmaml
