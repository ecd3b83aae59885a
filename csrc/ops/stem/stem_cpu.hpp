// stem's algebra on the CPU: a vector of features at a time, in double whatever the dtype, as the
// moments are.
#pragma once

#include "cpu/lanes.hpp"
#include "cpu/math.hpp"
#include "ops/patches/patches.hpp"
#include "ops/stem/stem.hpp"

namespace fastmaml::FASTMAML_ISA {

typedef Vec<double> Wide;

// Numbers of either dtype as doubles.
template <class T>
struct WideAccess {
  typedef T narrow __attribute__((vector_size(kWidth<double> * sizeof(T))));
  Lanes<double> lanes;

  FASTMAML_INLINE size_t bytes() const { return static_cast<size_t>(lanes.n) * sizeof(T); }
  FASTMAML_INLINE Wide load(const T* p) const {
    narrow v{};
    std::memcpy(&v, p, bytes());
    return __builtin_convertvector(v, Wide);
  }
  FASTMAML_INLINE Wide load_or(const T* p, int64_t i, double otherwise) const {
    return p ? load(p + i) : splat<double>(otherwise);
  }
  FASTMAML_INLINE void store(T* p, Wide v) const {
    const auto rounded = __builtin_convertvector(v, narrow);
    std::memcpy(p, &rounded, bytes());
  }
  static FASTMAML_INLINE Wide rounded(Wide v) {
    return __builtin_convertvector(__builtin_convertvector(v, narrow), Wide);
  }
};

// A column for each of a vector of features: w, u, G and what the covariance makes of them.
struct Column {
  Wide of[kMostPatch];
};

// One task's operands, see StemArgs.
template <class T>
struct StemTask {
  const StemArgs& args;
  int64_t P, F;
  const double *mean, *cov;
  const T *w, *g, *b, *w_dot, *g_dot, *b_dot, *D, *G, *D_dot, *G_dot, *w_cin, *g_cin, *b_cin;
  T *w_out, *g_out, *b_out;
  double w_scale, g_scale, b_scale;

  StemTask(const StemArgs& a, const Context& context, int64_t task)
      : args(a), P(a.patch), F(a.features) {
    const auto at = [&](const Operand& o) { return address_or_null<T>(context, o, task); };
    mean = reinterpret_cast<const double*>(at(a.moments)), cov = mean + P;
    w = at(a.w), g = at(a.g), b = at(a.b);
    w_dot = at(a.w_dot), g_dot = at(a.g_dot), b_dot = at(a.b_dot);
    D = at(a.D), G = at(a.G), D_dot = at(a.D_dot), G_dot = at(a.G_dot);
    w_cin = at(a.w_cin), g_cin = at(a.g_cin), b_cin = at(a.b_cin);
    w_out = at(a.w_out), g_out = at(a.g_out), b_out = at(a.b_out);
    const T* scalars = static_cast<const T*>(context.scalars);
    w_scale = scalars[a.w_scale], g_scale = scalars[a.g_scale], b_scale = scalars[a.b_scale];
  }

  void load_column(const T* from, int64_t j, WideAccess<T> io, Column& to) const {
    for (int64_t p = 0; p < P; ++p) to.of[p] = io.load_or(from, p * F + j, 0);
  }
  // Gradients of the filters' places with respect to the centred patches: G - D mean.
  void load_centred(const T* products, const T* sums, int64_t j, WideAccess<T> io,
                    Column& to) const {
    const Wide total = io.load(sums + j);
    for (int64_t p = 0; p < P; ++p) to.of[p] = io.load(products + p * F + j) - total * mean[p];
  }
  void covary(const Column& a, Column& to) const {
    for (int64_t p = 0; p < P; ++p) {
      Wide total{};
      for (int64_t q = 0; q < P; ++q) total += a.of[q] * cov[p * P + q];
      to.of[p] = total;
    }
  }
  Wide dot(const Column& a, const Column& b) const {
    Wide total{};
    for (int64_t p = 0; p < P; ++p) total += a.of[p] * b.of[p];
    return total;
  }

  // What all passes start from, and what the tangent passes add to it.
  struct State {
    Column w, cw;  // w, C w
    Wide g, rstd;
    Column u, cu;  // u, C u
    Wide rstd_dot, s_dot;
  };
  void load_state(int64_t j, WideAccess<T> io, State& s) const {
    load_column(w, j, io, s.w), covary(s.w, s.cw);
    const Wide var = dot(s.w, s.cw), zero{};
    s.rstd = 1.0 / sqrt(select<double>(var < zero, zero, var) + args.eps);
    s.g = io.load_or(g, j, 1);
    if (args.pass == PassKind::forward || args.pass == PassKind::backward) return;
    load_column(w_dot, j, io, s.u), covary(s.u, s.cu);
    s.rstd_dot = -s.rstd * s.rstd * s.rstd * dot(s.u, s.cw);
    s.s_dot = s.g * s.rstd_dot + io.load_or(g_dot, j, 0) * s.rstd;
  }

  // The folded weight `value`, whose outputs' mean is `bias`: of the weight as it is stored, or a
  // mean far from 0 would multiply its roundings.
  template <class Value>
  FASTMAML_INLINE void write_folded(Wide bias, int64_t j, WideAccess<T> io, Value&& value) const {
    for (int64_t p = 0; p < P; ++p) {
      const Wide v = io.rounded(value(p));
      io.store(w_out + p * F + j, v);
      bias -= v * mean[p];
    }
    io.store(b_out + j, bias);
  }
  FASTMAML_INLINE void write_bar(T* out, const T* cin, int64_t i, double scale, Wide bar,
                                 WideAccess<T> io) const {
    if (out) io.store(out + i, bar * scale + io.load_or(cin, i, 0));
  }

  void fold(const State& s, int64_t j, WideAccess<T> io) const {
    const Wide scale = s.g * s.rstd;
    write_folded(io.load_or(b, j, 0), j, io, [&](int64_t p) { return scale * s.w.of[p]; });
  }
  void fold_dot(const State& s, int64_t j, WideAccess<T> io) const {
    const Wide scale = s.g * s.rstd;
    write_folded(io.load_or(b_dot, j, 0), j, io,
                 [&](int64_t p) { return scale * s.u.of[p] + s.s_dot * s.w.of[p]; });
  }
  void write_bars(const State& s, int64_t j, WideAccess<T> io) const {
    Column G_;
    load_centred(G, D, j, io, G_);
    const Wide A = s.rstd * dot(s.w, G_), B = s.rstd * A, scale = s.g * s.rstd;
    for (int64_t p = 0; p < P; ++p)
      write_bar(w_out, w_cin, p * F + j, w_scale, scale * (G_.of[p] - B * s.cw.of[p]), io);
    write_bar(g_out, g_cin, j, g_scale, A, io);
    write_bar(b_out, b_cin, j, b_scale, io.load(D + j), io);
  }
  void write_bars_dot(const State& s, int64_t j, WideAccess<T> io) const {
    Column G_, Gd;
    load_centred(G, D, j, io, G_), load_centred(G_dot, D_dot, j, io, Gd);
    const Wide wG = dot(s.w, G_), A = s.rstd * wG, B = s.rstd * A, scale = s.g * s.rstd;
    const Wide A_dot = s.rstd_dot * wG + s.rstd * (dot(s.u, G_) + dot(s.w, Gd));
    const Wide B_dot = s.rstd_dot * A + s.rstd * A_dot;
    for (int64_t p = 0; p < P; ++p)
      write_bar(w_out, w_cin, p * F + j, w_scale,
                s.s_dot * (G_.of[p] - B * s.cw.of[p]) +
                    scale * (Gd.of[p] - B_dot * s.cw.of[p] - B * s.cu.of[p]),
                io);
    write_bar(g_out, g_cin, j, g_scale, A_dot, io);
    write_bar(b_out, b_cin, j, b_scale, io.load(D_dot + j), io);
  }

  void run(int64_t j, WideAccess<T> io) const {
    State s;
    load_state(j, io, s);
    switch (args.pass) {
      case PassKind::forward:
        return fold(s, j, io);
      case PassKind::backward:
        return write_bars(s, j, io);
      case PassKind::forward_jvp:
        return fold_dot(s, j, io);
      case PassKind::backward_jvp:
        return write_bars_dot(s, j, io);
    }
  }
};

template <class T>
void run_kernel(const StemArgs& args, const Context& context) {
  const int64_t F = args.features;
  const Share share(context, context.tasks * F, kWidth<T>);
  for (int64_t i = share.begin; i < share.end;) {
    const int64_t task = i / F, begin = i - task * F, left = share.end - task * F;
    const int64_t end = left < F ? left : F;
    const StemTask<T> stem(args, context, task);
    for_lanes<double>(begin, end,
                      [&](int64_t j, Lanes<double> l) { stem.run(j, WideAccess<T>{l}); });
    i = task * F + end;
  }
}

}  // namespace fastmaml::FASTMAML_ISA
