#include "plan/traffic.hpp"

#include <utility>

namespace fastmaml {
namespace {

class Listing {
 public:
  explicit Listing(Dtype dtype) : number_(dtype == Dtype::f32 ? 4 : 8) {}

  // Absent operands are no arrays.
  void in(const Operand& operand, int64_t numbers) { add(operand, numbers * number_, false); }
  void out(const Operand& operand, int64_t numbers) { add(operand, numbers * number_, true); }
  void either(const Operand& operand, int64_t numbers, bool written) {
    add(operand, numbers * number_, written);
  }
  void add(const Operand& operand, int64_t bytes, bool written) {
    if (operand) arrays.push_back({operand, bytes, written});
  }

  std::vector<Array> arrays;

 private:
  int64_t number_;
};

constexpr int64_t kClassIndex = 8, kTapByte = 1;

bool goes_forward(PassKind pass) {
  return pass == PassKind::forward || pass == PassKind::forward_jvp;
}

void list(const ContractArgs& a, Listing& to) {
  const auto many = [](int64_t step, int64_t count) { return step == 0 ? 1 : count; };
  for (const ContractTerm& term : a.terms) {
    to.in(term.a, many(term.a_row, a.m) * many(term.a_col, term.k));
    to.in(term.b, many(term.b_row, term.k) * many(term.b_col, a.n));
  }
  to.in(a.cin, many(a.cin_row, a.m) * a.n);
  if (a.gate == Gate::operand) to.in(a.gate_by, a.m * a.n);
  to.out(a.c, a.runs * a.m * a.n);
}

void list(const TransposeArgs& a, Listing& to) {
  to.in(a.in, a.rows * a.cols * a.count);
  to.out(a.out, a.rows * a.cols * a.count);
}

void list(const PointwiseArgs& a, Listing& to) {
  for (const Operand* o : {&a.z, &a.y_bar, &a.x_dot, &a.y_bar_dot, &a.cin}) to.in(*o, a.n);
  to.out(a.out, a.n);
}

void list(const BatchNormArgs& a, Listing& to) {
  const int64_t all = a.rows * a.features;
  const PoolSize& pool = a.pool;
  const int64_t y =
      pool ? all / (pool.in_h * pool.in_w) * (pool.out_h * pool.out_w) : all;  // windows
  for (const Operand* o : {&a.x, &a.x_dot, &a.cin}) to.in(*o, all);
  for (const Operand* o : {&a.y_bar, &a.y_bar_dot}) to.in(*o, y);
  for (const Operand* o : {&a.weight, &a.bias, &a.running_mean, &a.running_var, &a.weight_dot,
                           &a.bias_dot, &a.weight_cin, &a.bias_cin})
    to.in(*o, a.features);
  if (a.moments) to.either(a.moments, a.moment_groups.count() * 2 * a.features, a.partial);
  to.either(a.sums, a.runs * 2 * a.features, a.partial);
  to.either(a.stats, 2 * a.features, a.pass == PassKind::forward);
  to.either(a.m, 2 * a.features, a.pass == PassKind::backward);
  to.either(a.n, 2 * a.features, a.pass == PassKind::forward_jvp);
  to.add(a.tap, y * kTapByte, a.pass == PassKind::forward);
  to.out(a.out, goes_forward(a.pass) ? y : all);
  to.out(a.weight_out, a.features), to.out(a.bias_out, a.features);
}

template <class A>
void list_elementwise_loss(const A& a, Listing& to) {
  for (const Operand* o : {&a.x, &a.t, &a.x_dot, &a.cin}) to.in(*o, a.n);
  to.out(a.out, goes_forward(a.pass) ? 1 : a.n);
}
void list(const MseArgs& a, Listing& to) { list_elementwise_loss(a, to); }
void list(const BceWithLogitsArgs& a, Listing& to) { list_elementwise_loss(a, to); }

void list(const CrossEntropyArgs& a, Listing& to) {
  const int64_t all = a.rows * a.classes;
  for (const Operand* o : {&a.x, &a.x_dot, &a.cin}) to.in(*o, all);
  to.add(a.c, a.rows * kClassIndex, false);
  to.either(a.p, all, a.pass == PassKind::backward);
  to.out(a.out, goes_forward(a.pass) ? 1 : all);
}

void list(const ConvArgs& a, Listing& to) {
  const int64_t from = a.images * a.stencil->from_pixels * a.groups * a.k;
  const int64_t into = a.images * a.stencil->to_pixels * a.groups * a.n;
  const int64_t weight = a.groups * a.stencil->taps * a.k * a.n;
  const int64_t c = a.weights ? a.splits * weight : into;
  for (const ConvTerm& term : a.terms)
    to.in(term.a, from), to.in(term.b, a.weights ? into : weight);
  to.in(a.cin, a.cin_row ? a.groups * a.n : c);
  to.out(a.c, c);
  if (a.moments) to.out(a.moments, a.moment_groups.count() * 2 * a.groups * a.n);
}

void list(const PermuteArgs& a, Listing& to) {
  int64_t all = 1, read = 1;
  for (int i = 0; i < 4; ++i) all *= a.size[i], read *= a.stride[i] == 0 ? 1 : a.size[i];
  to.in(a.in, read), to.in(a.cin, all), to.out(a.out, all);
}

void list(const PoolArgs& a, Listing& to) {
  const bool scatters = a.step == PoolStep::scatter_max || a.step == PoolStep::scatter_avg;
  const Stencil& stencil = a.map->gather;
  const int64_t x = a.images * stencil.from_pixels * a.channels;
  const int64_t y = a.images * stencil.to_pixels * a.channels;
  to.in(a.in, scatters ? y : x), to.in(a.cin, x);
  to.either(a.tap, y, a.step == PoolStep::find_max);
  to.out(a.out, scatters ? x : y);
}

void list(const GroupNormArgs& a, Listing& to) {
  const int64_t all = a.rows * a.pixels * a.channels, sets = 2 * a.rows * a.groups;
  for (const Operand* o : {&a.x, &a.y_bar, &a.x_dot, &a.y_bar_dot, &a.cin}) to.in(*o, all);
  for (const Operand* o :
       {&a.weight, &a.bias, &a.weight_dot, &a.bias_dot, &a.weight_cin, &a.bias_cin})
    to.in(*o, a.channels);
  to.either(a.stats, sets, a.pass == PassKind::forward);
  to.either(a.m, sets, a.pass == PassKind::backward);
  to.either(a.n, sets, a.pass == PassKind::forward_jvp);
  to.out(a.out, all), to.out(a.weight_out, a.channels), to.out(a.bias_out, a.channels);
}

void list(const TapArgs& a, Listing& to) {
  const int64_t rows = a.images * a.pool.in_h * a.pool.in_w * a.features;
  const int64_t windows = a.images * a.pool.out_h * a.pool.out_w * a.features;
  const bool spreads = a.kind == TapKind::spread;
  to.in(a.x, spreads ? windows : rows), to.in(a.sums_cin, a.features);
  to.add(a.tap, windows * kTapByte, a.kind == TapKind::choose);
  to.out(a.out, spreads ? rows : windows), to.out(a.sums, a.features);
}

// Doubles, whatever the dtype.
int64_t moment_bytes(int64_t patch) { return 8 * (patch + patch * patch); }

void list(const PatchArgs& a, Listing& to) {
  to.in(a.x, a.images * a.stencil->from_pixels * a.channels);
  to.add(a.out, moment_bytes(a.stencil->taps * a.channels), true);
}

void list(const StemArgs& a, Listing& to) {
  const int64_t weight = a.patch * a.features;
  to.add(a.moments, moment_bytes(a.patch), false);
  for (const Operand* o : {&a.w, &a.w_dot, &a.G, &a.G_dot, &a.w_cin}) to.in(*o, weight);
  for (const Operand* o : {&a.g, &a.b, &a.g_dot, &a.b_dot, &a.D, &a.D_dot, &a.g_cin, &a.b_cin})
    to.in(*o, a.features);
  to.out(a.w_out, weight), to.out(a.g_out, a.features), to.out(a.b_out, a.features);
}

}  // namespace

std::vector<Array> arrays_of(const Instruction& instruction, Dtype dtype) {
  Listing listing(dtype);
  visit_args([&](const auto& args) { list(args, listing); }, instruction.args);
  return std::move(listing.arrays);
}

}  // namespace fastmaml
