// taps on the CPU: strip of windows by strip of windows, a vector of features at a time.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "ops/taps/taps.hpp"

namespace fastmaml::FASTMAML_ISA {

// A vector of taps: bytes in memory, whole lanes in registers.
typedef int8_t TapByte;
template <class T>
struct TapBytes {
  typedef TapByte type __attribute__((vector_size(kWidth<T>)));
};
template <class T>
FASTMAML_INLINE Bits<T> splat_tap(int64_t tap) {
  return Bits<T>{} + static_cast<decltype(Bits<T>{}[0] + 0)>(tap);
}
template <class T>
FASTMAML_INLINE Bits<T> load_taps(const TapByte* p, Lanes<T> l) {
  typename TapBytes<T>::type bytes{};
  if (l.n == kWidth<T>)
    std::memcpy(&bytes, p, sizeof bytes);
  else
    std::memcpy(&bytes, p, static_cast<size_t>(l.n));
  return __builtin_convertvector(bytes, Bits<T>);
}
template <class T>
FASTMAML_INLINE void store_taps(TapByte* p, Bits<T> taps, Lanes<T> l) {
  const auto bytes = __builtin_convertvector(taps, typename TapBytes<T>::type);
  if (l.n == kWidth<T>)
    std::memcpy(p, &bytes, sizeof bytes);
  else
    std::memcpy(p, &bytes, static_cast<size_t>(l.n));
}

// The strips of some images: each as high as a window.
struct Strips {
  PoolSize p;
  int64_t strips, blocks;

  Strips(const PoolSize& pool, int64_t images) : p(pool) {
    strips = p.strips();
    blocks = images * strips;
  }
  // The strip's image, and its place there.
  FASTMAML_INLINE int64_t image(int64_t b) const { return b / strips; }
  FASTMAML_INLINE int64_t strip(int64_t b) const { return b - b / strips * strips; }
  FASTMAML_INLINE int64_t height(int64_t b) const {
    const int64_t left = p.in_h - strip(b) * p.kernel_h;
    return left < p.kernel_h ? left : p.kernel_h;
  }
  FASTMAML_INLINE int64_t count(int64_t b) const { return height(b) * p.in_w; }
  FASTMAML_INLINE int64_t first_row(int64_t b) const {
    return (image(b) * p.in_h + strip(b) * p.kernel_h) * p.in_w;
  }
  FASTMAML_INLINE int64_t first_window(int64_t b) const {
    return (image(b) * p.out_h + strip(b)) * p.out_w;
  }
  // body(row, window, tap) for the rows of block b; those that no window has, at the far edges,
  // come with window -1.
  template <class Body>
  FASTMAML_INLINE void each(int64_t b, Body&& body) const {
    const int64_t windows = strip(b) < p.out_h ? p.out_w : 0, first = first_window(b);
    int64_t i = first_row(b);
    for (int64_t dy = 0; dy < height(b); ++dy) {
      for (int64_t o = 0; o < windows; ++o)
        for (int64_t dx = 0; dx < p.kernel_w; ++dx) body(i++, first + o, dy * p.kernel_w + dx);
      for (int64_t x = windows * p.kernel_w; x < p.in_w; ++x) body(i++, -1, 0);
    }
  }
  // body(row) for the rows of block b that no window has.
  template <class Body>
  FASTMAML_INLINE void each_outside(int64_t b, Body&& body) const {
    const int64_t windows = strip(b) < p.out_h ? p.out_w : 0;
    for (int64_t dy = 0; dy < height(b); ++dy)
      for (int64_t dx = windows * p.kernel_w; dx < p.in_w; ++dx)
        body(first_row(b) + dy * p.in_w + dx);
  }
  // body(window, row of its first tap) for the windows of block b.
  template <class Body>
  FASTMAML_INLINE void each_window(int64_t b, Body&& body) const {
    if (strip(b) >= p.out_h) return;
    const int64_t first = first_window(b), row = first_row(b);
    for (int64_t o = 0; o < p.out_w; ++o) body(first + o, row + o * p.kernel_w);
  }
  // body(row, tap) for the taps of the window whose first tap is at `row`.
  template <class Body>
  FASTMAML_INLINE void each_tap(int64_t row, Body&& body) const {
    if (p.kernel_h == 2 && p.kernel_w == 2) {  // by far the most common
      body(row, 0), body(row + 1, 1), body(row + p.in_w, 2), body(row + p.in_w + 1, 3);
      return;
    }
    for (int64_t dy = 0; dy < p.kernel_h; ++dy)
      for (int64_t dx = 0; dx < p.kernel_w; ++dx)
        body(row + dy * p.in_w + dx, dy * p.kernel_w + dx);
  }

  template <class T>
  struct Choice {
    Vec<T> value;
    Bits<T> tap;
  };
  // The largest value(row) of the window whose first tap is at `row`, and its tap.
  template <class T, class Value>
  FASTMAML_INLINE Choice<T> choose(int64_t row, bool relu, Value&& value) const {
    Vec<T> best = value(row);
    Bits<T> chosen = splat_tap<T>(0);
    each_tap(row, [&](int64_t i, int64_t tap) {
      const Vec<T> v = value(i);
      // Written so that a NaN is taken, and kept unless another follows.
      const Bits<T> better = (v > best) | (v != v);
      best = select<T>(better, v, best);
      chosen = better ? splat_tap<T>(tap) : chosen;
    });
    if (relu) {
      const Vec<T> zero = splat<T>(0);
      const Bits<T> flat = best <= zero;
      best = select<T>(flat, zero, best), chosen = flat ? splat_tap<T>(-1) : chosen;
    }
    return {best, chosen};
  }
  // value(row) of the chosen tap of that window, 0 where there is none.
  template <class T, class Value>
  FASTMAML_INLINE Vec<T> follow(int64_t row, Bits<T> chosen, Value&& value) const {
    Vec<T> found = splat<T>(0);
    each_tap(row, [&](int64_t i, int64_t tap) {
      found = select<T>(chosen == splat_tap<T>(tap), value(i), found);
    });
    return found;
  }
};

// One task's operands, see TapArgs.
template <class T>
struct TapTask {
  const TapArgs& args;
  const Strips strips;
  int64_t F;
  const T *x, *sums_cin;
  TapByte* tap;
  T *out, *sums;

  TapTask(const TapArgs& a, const Context& context, int64_t task)
      : args(a), strips(a.pool, a.images), F(a.features) {
    x = address<T>(context, a.x, task), out = address<T>(context, a.out, task);
    tap = reinterpret_cast<TapByte*>(address<T>(context, a.tap, task)) + a.first_tap;
    sums = address_or_null<T>(context, a.sums, task);
    sums_cin = address_or_null<T>(context, a.sums_cin, task);
  }

  FASTMAML_INLINE void windows(int64_t b, int64_t j, Lanes<T> l) const {
    const auto value = [&](int64_t i) { return l.load(x + i * F + j); };
    const bool chooses = args.kind == TapKind::choose;
    strips.each_window(b, [&](int64_t window, int64_t row) {
      TapByte* taps = tap + window * F + j;
      if (chooses) {
        const Strips::Choice<T> choice = strips.choose<T>(row, args.relu, value);
        l.store(out + window * F + j, choice.value), store_taps<T>(taps, choice.tap, l);
      } else {
        l.store(out + window * F + j, strips.follow<T>(row, load_taps<T>(taps, l), value));
      }
    });
  }

  FASTMAML_INLINE void spread(int64_t b, int64_t j, Lanes<T> l) const {
    const Vec<T> zero = splat<T>(0);
    Vec<T> total = zero;
    strips.each_window(b, [&](int64_t window, int64_t row) {
      const Bits<T> chosen = load_taps<T>(tap + window * F + j, l);
      const Vec<T> value = l.load(x + window * F + j);
      total += select<T>(chosen >= splat_tap<T>(0), value, zero);
      strips.each_tap(row, [&](int64_t i, int64_t at) {
        l.store(out + i * F + j, select<T>(chosen == splat_tap<T>(at), value, zero));
      });
    });
    strips.each_outside(b, [&](int64_t i) { l.store(out + i * F + j, zero); });
    l.store(sums + j, l.load(sums + j) + total);
  }

  void run(int64_t begin, int64_t end) const {
    const bool spreads = args.kind == TapKind::spread;
    if (spreads)
      for_lanes<T>(begin, end,
                   [&](int64_t j, Lanes<T> l) { l.store(sums + j, l.load_or(sums_cin, j, T(0))); });
    for (int64_t b = 0; b < strips.blocks; ++b)
      for_lanes<T>(begin, end,
                   [&](int64_t j, Lanes<T> l) { spreads ? spread(b, j, l) : windows(b, j, l); });
  }
};

template <class T>
void run_kernel(const TapArgs& args, const Context& context) {
  const int64_t F = args.features;
  const Share share(context, context.tasks * F, kWidth<T>);
  for (int64_t i = share.begin; i < share.end;) {
    const int64_t task = i / F, begin = i - task * F, left = share.end - task * F;
    const int64_t end = left < F ? left : F;
    TapTask<T>(args, context, task).run(begin, end);
    i = task * F + end;
  }
}

}  // namespace fastmaml::FASTMAML_ISA
