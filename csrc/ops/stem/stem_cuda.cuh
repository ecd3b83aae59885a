// stem's algebra on the device: a warp a feature, in double whatever the dtype, as the moments are.
// A lane has every 32nd place of the filter.
#pragma once

#include <cmath>

#include "cuda/reduce.cuh"
#include "ops/patches/patches.hpp"
#include "ops/stem/stem.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<StemArgs> = {112, 112};

constexpr int kColumnRegisters = static_cast<int>(kMostPatch) / kWarp;
static_assert(kColumnRegisters * kWarp == kMostPatch);

// This lane's entries of a column of patch numbers; 0 past the last.
struct StemColumn {
  double of[kColumnRegisters];
};

// One task's operands, see StemArgs.
template <class T>
struct StemTask {
  const StemArgs& args;
  int64_t P, F;
  int lane;
  const double *mean, *cov;
  const T *w, *g, *b, *w_dot, *g_dot, *b_dot, *D, *G, *D_dot, *G_dot, *w_cin, *g_cin, *b_cin;
  T *w_out, *g_out, *b_out;
  double w_scale, g_scale, b_scale;

  FASTMAML_DEVICE StemTask(const StemArgs& a, const Block& block, int64_t task)
      : args(a), P(a.patch), F(a.features), lane(threadIdx.x % kWarp) {
    const auto at = [&](const Operand& o) { return address_or_null<T>(block, o, task); };
    mean = reinterpret_cast<const double*>(at(a.moments)), cov = mean + P;
    w = at(a.w), g = at(a.g), b = at(a.b);
    w_dot = at(a.w_dot), g_dot = at(a.g_dot), b_dot = at(a.b_dot);
    D = at(a.D), G = at(a.G), D_dot = at(a.D_dot), G_dot = at(a.G_dot);
    w_cin = at(a.w_cin), g_cin = at(a.g_cin), b_cin = at(a.b_cin);
    w_out = at(a.w_out), g_out = at(a.g_out), b_out = at(a.b_out);
    w_scale = static_cast<double>(block.scalar<T>(a.w_scale));
    g_scale = static_cast<double>(block.scalar<T>(a.g_scale));
    b_scale = static_cast<double>(block.scalar<T>(a.b_scale));
  }

  FASTMAML_DEVICE static double wide_or(const T* p, int64_t i, double otherwise) {
    return p ? static_cast<double>(p[i]) : otherwise;
  }
  // value(p) for the lane's places p.
  template <class Value>
  FASTMAML_DEVICE StemColumn column(Value&& value) const {
    StemColumn to;
#pragma unroll
    for (int k = 0; k < kColumnRegisters; ++k) {
      const int64_t p = k * kWarp + lane;
      to.of[k] = p < P ? value(p) : 0.0;
    }
    return to;
  }
  // body(p, k) for them, k being the place in a StemColumn.
  template <class Body>
  FASTMAML_DEVICE void each(Body&& body) const {
#pragma unroll
    for (int k = 0; k < kColumnRegisters; ++k) {
      const int64_t p = k * kWarp + lane;
      if (p < P) body(p, k);
    }
  }
  FASTMAML_DEVICE StemColumn load_column(const T* from, int64_t j) const {
    return column([&](int64_t p) { return wide_or(from, p * F + j, 0); });
  }
  // Gradients of the filters' places with respect to the centred patches: G - D mean.
  FASTMAML_DEVICE StemColumn load_centred(const T* products, const T* sums, int64_t j) const {
    const auto total = static_cast<double>(sums[j]);
    return column(
        [&](int64_t p) { return static_cast<double>(products[p * F + j]) - total * mean[p]; });
  }
  // The covariance is symmetric: read along rows it meets memory in order.
  FASTMAML_DEVICE StemColumn covary(const StemColumn& a) const {
    StemColumn to{};
#pragma unroll
    for (int from = 0; from < kColumnRegisters; ++from)
      for (int q = 0; q < kWarp && from * kWarp + q < P; ++q) {
        const double value = __shfl_sync(kAllLanes, a.of[from], q);
        const double* row = cov + (from * kWarp + q) * P;
        each([&](int64_t p, int k) { to.of[k] += value * row[p]; });
      }
    return to;
  }
  FASTMAML_DEVICE static double dot(const StemColumn& a, const StemColumn& b) {
    double total = 0;
#pragma unroll
    for (int k = 0; k < kColumnRegisters; ++k) total += a.of[k] * b.of[k];
    return over_warp(total, Plus{});
  }

  // What all passes start from, and what the tangent passes add to it.
  struct State {
    StemColumn w, cw;  // w, C w
    double g, rstd;
    StemColumn u, cu;  // u, C u
    double rstd_dot, s_dot;
  };
  FASTMAML_DEVICE void load_state(int64_t j, State& s) const {
    s.w = load_column(w, j), s.cw = covary(s.w);
    const double var = dot(s.w, s.cw);
    s.rstd = 1.0 / std::sqrt((var < 0.0 ? 0.0 : var) + args.eps);
    s.g = wide_or(g, j, 1);
    if (args.pass == PassKind::forward || args.pass == PassKind::backward) return;
    s.u = load_column(w_dot, j), s.cu = covary(s.u);
    s.rstd_dot = -s.rstd * s.rstd * s.rstd * dot(s.u, s.cw);
    s.s_dot = s.g * s.rstd_dot + wide_or(g_dot, j, 0) * s.rstd;
  }

  // The folded weight, whose outputs' mean is `bias`: of the weight as it is stored, or a mean far
  // from 0 would multiply its roundings.
  FASTMAML_DEVICE void write_folded(double bias, int64_t j, const StemColumn& value) const {
    double taken = 0;
    each([&](int64_t p, int k) {
      const T rounded = static_cast<T>(value.of[k]);
      w_out[p * F + j] = rounded;
      taken += static_cast<double>(rounded) * mean[p];
    });
    taken = over_warp(taken, Plus{});
    if (lane == 0) b_out[j] = static_cast<T>(bias - taken);
  }
  FASTMAML_DEVICE static void write_bar(T* out, const T* cin, int64_t i, double scale, double bar) {
    if (out) out[i] = static_cast<T>(bar * scale + wide_or(cin, i, 0));
  }
  // The cotangents of the norm's own parameters, or their tangents.
  FASTMAML_DEVICE void write_norm_bars(int64_t j, double g_bar, T b_bar) const {
    if (lane > 0) return;
    write_bar(g_out, g_cin, j, g_scale, g_bar);
    write_bar(b_out, b_cin, j, b_scale, static_cast<double>(b_bar));
  }

  FASTMAML_DEVICE void fold(const State& s, int64_t j) const {
    const double scale = s.g * s.rstd;
    StemColumn value{};
    each([&](int64_t, int k) { value.of[k] = scale * s.w.of[k]; });
    write_folded(wide_or(b, j, 0), j, value);
  }
  FASTMAML_DEVICE void fold_dot(const State& s, int64_t j) const {
    const double scale = s.g * s.rstd;
    StemColumn value{};
    each([&](int64_t, int k) { value.of[k] = scale * s.u.of[k] + s.s_dot * s.w.of[k]; });
    write_folded(wide_or(b_dot, j, 0), j, value);
  }
  FASTMAML_DEVICE void write_bars(const State& s, int64_t j) const {
    const StemColumn G_ = load_centred(G, D, j);
    const double A = s.rstd * dot(s.w, G_), B = s.rstd * A, scale = s.g * s.rstd;
    each([&](int64_t p, int k) {
      write_bar(w_out, w_cin, p * F + j, w_scale, scale * (G_.of[k] - B * s.cw.of[k]));
    });
    write_norm_bars(j, A, D[j]);
  }
  FASTMAML_DEVICE void write_bars_dot(const State& s, int64_t j) const {
    const StemColumn G_ = load_centred(G, D, j), Gd = load_centred(G_dot, D_dot, j);
    const double wG = dot(s.w, G_), A = s.rstd * wG, B = s.rstd * A, scale = s.g * s.rstd;
    const double A_dot = s.rstd_dot * wG + s.rstd * (dot(s.u, G_) + dot(s.w, Gd));
    const double B_dot = s.rstd_dot * A + s.rstd * A_dot;
    each([&](int64_t p, int k) {
      write_bar(w_out, w_cin, p * F + j, w_scale,
                s.s_dot * (G_.of[k] - B * s.cw.of[k]) +
                    scale * (Gd.of[k] - B_dot * s.cw.of[k] - B * s.cu.of[k]));
    });
    write_norm_bars(j, A_dot, D_dot[j]);
  }

  FASTMAML_DEVICE void run(int64_t j) const {
    State s;
    load_state(j, s);
    switch (args.pass) {
      case PassKind::forward:
        return fold(s, j);
      case PassKind::backward:
        return write_bars(s, j);
      case PassKind::forward_jvp:
        return fold_dot(s, j);
      case PassKind::backward_jvp:
        return write_bars_dot(s, j);
    }
  }
};

// Features side by side in a block, which share the lines of memory that they read.
template <class T>
FASTMAML_DEVICE void run_pass(const StemArgs& args, const Block& block, int64_t task) {
  const StemTask<T> stem(args, block, task);
  const int warp = threadIdx.x / kWarp;
  for (int64_t j = block.rank * kWarps + warp; j < args.features; j += block.size * kWarps)
    stem.run(j);
}

inline int64_t units(const StemArgs& args) { return (args.features + kWarps - 1) / kWarps; }

}  // namespace fastmaml::device
