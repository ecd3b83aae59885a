// Pools on the CPU: a vector of channels of one pixel at a time, over the taps of its class.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "ops/pool2d/pool2d.hpp"

namespace fastmaml::FASTMAML_ISA {

// One pixel that is written, of one image of one task.
template <class T>
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
    const Vec<T> zero = splat<T>(0);
    Vec<T> total = zero;
    for (const Tap* t = taps; t < taps_end; ++t) {
      const int64_t i = t->shift * C + j;
      total +=
          select<T>(l.load(tap + i) == splat<T>(static_cast<T>(t->index)), l.load(in + i), zero);
    }
    l.store(out + j, cin ? l.load(cin + j) + total : total);
  }
};

// What is the same for all pixels of an instruction.
template <class T>
struct Pool {
  const PoolArgs& args;
  const Stencil& stencil;
  bool scatters;

  explicit Pool(const PoolArgs& a)
      : args(a),
        stencil(a.step == PoolStep::scatter_max || a.step == PoolStep::scatter_avg ? a.map->scatter
                                                                                   : a.map->gather),
        scatters(a.step == PoolStep::scatter_max || a.step == PoolStep::scatter_avg) {}

  void average(const PoolPixel<T>& p, const PixelPair& pair, int64_t j, Lanes<T> l) const {
    const double* weights = args.map->weights.data();
    Vec<T> total = splat<T>(0);
    if (scatters)
      for (const Tap* t = p.taps; t < p.taps_end; ++t)
        total += l.load(p.in + t->shift * p.C + j) * static_cast<T>(weights[pair.from + t->shift]);
    else
      for (const Tap* t = p.taps; t < p.taps_end; ++t) total += l.load(p.in + t->shift * p.C + j);
    if (!scatters) total *= splat<T>(static_cast<T>(weights[pair.to]));
    l.store(p.out + j, p.cin ? l.load(p.cin + j) + total : total);
  }

  void pixel(const PoolPixel<T>& p, const PixelPair& pair) const {
    for_lanes<T>(0, p.C, [&](int64_t j, Lanes<T> l) {
      switch (args.step) {
        case PoolStep::find_max:
          return p.find_max(j, l);
        case PoolStep::gather_max:
          return p.gather_max(j, l);
        case PoolStep::scatter_max:
          return p.scatter_max(j, l);
        case PoolStep::gather_avg:
        case PoolStep::scatter_avg:
          return average(p, pair, j, l);
      }
    });
  }

  void image(const Context& context, int64_t task, int64_t r) const {
    const int64_t C = args.channels, from = r * stencil.from_pixels * C,
                  to = r * stencil.to_pixels * C;
    const T* in = address<T>(context, args.in, task) + from;
    T* tap = args.tap ? address<T>(context, args.tap, task) + (scatters ? from : to) : nullptr;
    const T* cin = args.cin ? address<T>(context, args.cin, task) + to : nullptr;
    T* out = address<T>(context, args.out, task) + to;
    for (const PixelClass& pixels : stencil.classes)
      for (const PixelPair& pair : pixels.pixels) {
        PoolPixel<T> p;
        p.C = C;
        p.taps = pixels.taps.data(), p.taps_end = p.taps + pixels.taps.size();
        p.in = in + pair.from * C, p.out = out + pair.to * C;
        p.tap = p.tap_out = tap ? tap + (scatters ? pair.from : pair.to) * C : nullptr;
        p.cin = cin ? cin + pair.to * C : nullptr;
        pixel(p, pair);
      }
  }
};

template <class T>
void run_kernel(const PoolArgs& args, const Context& context) {
  const Pool<T> pool(args);
  const Share share(context, context.tasks * args.images);
  for (int64_t i = share.begin; i < share.end; ++i)
    pool.image(context, i / args.images, i % args.images);
}

}  // namespace fastmaml::FASTMAML_ISA
