// Pools on the CPU: a vector of channels of one pixel at a time, over the taps of its class.
#pragma once

#include "cpu/context.hpp"
#include "cpu/sums.hpp"
#include "ops/pool2d/pool2d.hpp"

namespace fastmaml::FASTMAML_ISA {

// The sum of term(tap) over taps.
template <class T, bool kLong, class Term>
FASTMAML_INLINE Vec<T> sum_taps(const Tap* taps, const Tap* taps_end, Term&& term) {
  return sum_in_chains<T, kLong>(taps_end - taps, 1, [&](int64_t begin, int64_t end) {
    Vec<T> total = splat<T>(0);
    for (const Tap* t = taps + begin; t < taps + end; ++t) total += term(*t);
    return total;
  });
}

// One pixel that is written, of one image of one task.
template <class T, bool kLong>
struct PoolPixel {
  const Tap *taps, *taps_end;
  const T* in;   // the first source's channels
  const T* tap;  // max: of the pixel itself (find, gather) or of its first source (scatter)
  T* tap_out;    // find_max
  const T* cin;
  T* out;
  int64_t C;

  void find_max(int64_t j, Lanes<T> l) const {
    Vec<T> best = l.load(in + j), at = splat<T>(static_cast<T>(taps->index));
    for (const Tap* tap = taps + 1; tap < taps_end; ++tap) {
      const Vec<T> value = l.load(in + tap->shift * C + j);
      // Written so that a NaN is taken, and kept unless another follows.
      const Bits<T> better = (value > best) | (value != value);
      best = select<T>(better, value, best);
      at = select<T>(better, splat<T>(static_cast<T>(tap->index)), at);
    }
    l.store(out + j, best);
    l.store(tap_out + j, at);
  }

  void gather_max(int64_t j, Lanes<T> l) const {
    const Vec<T> at = l.load(tap + j), zero = splat<T>(0);
    Vec<T> total = zero;
    for (const Tap* t = taps; t < taps_end; ++t)
      total +=
          select<T>(at == splat<T>(static_cast<T>(t->index)), l.load(in + t->shift * C + j), zero);
    l.store(out + j, total);
  }

  void scatter_max(int64_t j, Lanes<T> l) const {
    const Vec<T> total = sum_taps<T, kLong>(taps, taps_end, [&](const Tap& t) {
      const int64_t i = t.shift * C + j;
      const Bits<T> chosen = l.load(tap + i) == splat<T>(static_cast<T>(t.index));
      return select<T>(chosen, l.load(in + i), splat<T>(0));
    });
    l.store(out + j, cin ? l.load(cin + j) + total : total);
  }
};

// What is the same for all pixels of an instruction. kLong: some window has more than kChain taps.
template <class T, PoolStep kStep, bool kLong>
struct Pool {
  using Pixel = PoolPixel<T, kLong>;
  static constexpr bool kScatters =
      kStep == PoolStep::scatter_max || kStep == PoolStep::scatter_avg;

  const PoolArgs& args;
  const Stencil& stencil;
  const double* weights;

  explicit Pool(const PoolArgs& a)
      : args(a),
        stencil(kScatters ? a.map->scatter : a.map->gather),
        weights(a.map->weights.data()) {}

  FASTMAML_INLINE void average(const Pixel& p, const PixelPair& pair, int64_t j, Lanes<T> l) const {
    const auto source = [&](const Tap& t) { return l.load(p.in + t.shift * p.C + j); };
    Vec<T> total;
    if constexpr (kScatters)
      total = sum_taps<T, kLong>(p.taps, p.taps_end, [&](const Tap& t) {
        return source(t) * static_cast<T>(weights[pair.from + t.shift]);
      });
    else
      total = sum_taps<T, kLong>(p.taps, p.taps_end, source) *
              splat<T>(static_cast<T>(weights[pair.to]));
    l.store(p.out + j, p.cin ? l.load(p.cin + j) + total : total);
  }

  FASTMAML_INLINE void pixel(const Pixel& p, const PixelPair& pair) const {
    for_lanes<T>(0, p.C, [&](int64_t j, Lanes<T> l) {
      if constexpr (kStep == PoolStep::find_max)
        p.find_max(j, l);
      else if constexpr (kStep == PoolStep::gather_max)
        p.gather_max(j, l);
      else if constexpr (kStep == PoolStep::scatter_max)
        p.scatter_max(j, l);
      else
        average(p, pair, j, l);
    });
  }

  void image(const Context& context, int64_t task, int64_t r) const {
    const int64_t C = args.channels, from = r * stencil.from_pixels * C,
                  to = r * stencil.to_pixels * C;
    const T* in = address<T>(context, args.in, task) + from;
    T* tap = args.tap ? address<T>(context, args.tap, task) + (kScatters ? from : to) : nullptr;
    const T* cin = args.cin ? address<T>(context, args.cin, task) + to : nullptr;
    T* out = address<T>(context, args.out, task) + to;
    for (const PixelClass& pixels : stencil.classes)
      for (const PixelPair& pair : pixels.pixels) {
        Pixel p;
        p.C = C;
        p.taps = pixels.taps.data(), p.taps_end = p.taps + pixels.taps.size();
        p.in = in + pair.from * C, p.out = out + pair.to * C;
        p.tap = p.tap_out = tap ? tap + (kScatters ? pair.from : pair.to) * C : nullptr;
        p.cin = cin ? cin + pair.to * C : nullptr;
        pixel(p, pair);
      }
  }
};

template <class T, PoolStep kStep, bool kLong>
void run_pool(const PoolArgs& args, const Context& context) {
  const Pool<T, kStep, kLong> pool(args);
  const Share share(context, context.tasks * args.images);
  for (int64_t i = share.begin; i < share.end; ++i)
    pool.image(context, i / args.images, i % args.images);
}

// A step that sums.
template <class T, PoolStep kStep>
void run_sums(const PoolArgs& args, const Context& context) {
  size_t taps = 0;
  for (const PixelClass& pixels : Pool<T, kStep, false>(args).stencil.classes)
    if (pixels.taps.size() > taps) taps = pixels.taps.size();
  if (taps > kChain)
    run_pool<T, kStep, true>(args, context);
  else
    run_pool<T, kStep, false>(args, context);
}

template <class T>
void run_kernel(const PoolArgs& args, const Context& context) {
  switch (args.step) {
    case PoolStep::find_max:
      return run_pool<T, PoolStep::find_max, false>(args, context);
    case PoolStep::gather_max:
      return run_pool<T, PoolStep::gather_max, false>(args, context);
    case PoolStep::scatter_max:
      return run_sums<T, PoolStep::scatter_max>(args, context);
    case PoolStep::gather_avg:
      return run_sums<T, PoolStep::gather_avg>(args, context);
    case PoolStep::scatter_avg:
      return run_sums<T, PoolStep::scatter_avg>(args, context);
  }
}

}  // namespace fastmaml::FASTMAML_ISA
