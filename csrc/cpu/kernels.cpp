// Compiled once for each instruction set, into namespace FASTMAML_ISA: the kernel table of that set
// (add an op: one include here; the table follows the alternatives of Args).
#include "cpu/kernels.hpp"

#include <utility>

#include "ops/batch_norm/batch_norm_cpu.hpp"
#include "ops/bce_with_logits/bce_with_logits_cpu.hpp"
#include "ops/contract/contract_cpu.hpp"
#include "ops/conv2d/conv2d_cpu.hpp"
#include "ops/cross_entropy/cross_entropy_cpu.hpp"
#include "ops/group_norm/group_norm_cpu.hpp"
#include "ops/mse/mse_cpu.hpp"
#include "ops/patches/patches_cpu.hpp"
#include "ops/permute/permute_cpu.hpp"
#include "ops/pointwise/pointwise_cpu.hpp"
#include "ops/pool2d/pool2d_cpu.hpp"
#include "ops/stem/stem_cpu.hpp"
#include "ops/taps/taps_cpu.hpp"
#include "ops/transpose/transpose_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T, class A>
void entry(const void* args, const Context& context) {
  run_kernel<T>(*static_cast<const A*>(args), context);
}

// Independent chains of multiply-adds: the rate no contraction can beat.
template <class T>
double fma(int64_t rounds) {
  constexpr int kChains = kVectorBytes == 64 ? 16 : 12;
  Vec<T> chain[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) chain[i] = splat(T(i));
  Vec<T> x = splat(T(0.999)), y = splat(T(0.001));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * x + y;
  }
  Vec<T> total{};
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) total += chain[i];
  volatile T sink = sum<T>(total);
  (void)sink;
  return 2.0 * kChains * kWidth<T> * static_cast<double>(rounds);
}

template <size_t... I>
constexpr KernelTable make_table(std::index_sequence<I...>) {
  return {{entry<float, ArgsAt<I>>...}, {entry<double, ArgsAt<I>>...}, fma<float>, fma<double>};
}

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = make_table(std::make_index_sequence<kArgsCount>{});

}  // namespace fastmaml::FASTMAML_ISA
