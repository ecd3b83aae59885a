// Compiled once for each instruction set, into namespace FASTMAML_ISA: the kernel table of that
// set, which follows ops/list.hpp.
#include "cpu/kernels.hpp"

#include <utility>

#define FASTMAML_OP_FILE(op) FASTMAML_PATH(op, op##_cpu.hpp)
#include "ops/list.hpp"

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
