// patches of windows that move by one pixel: what two taps sum depends only on how far apart they
// are, but for the pixels at the image's edges.
//
// The image is padded to `tall` x `wide` pixels, all places that a tap visits. For each pixel q the
// products x[q] x[q + d] are summed for the distances d that two taps can have, in one table for
// each class of q: the first and the last few rows and columns are classes of their own, the middle
// is one. A pair of taps then adds up the classes that its first tap visits.
#pragma once

#include "cpu/context.hpp"
#include "cpu/simd.hpp"
#include "ops/patches/patches_centre_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// Pixels whose products are summed before they are added to a table.
constexpr int64_t kShiftRun = 64;

// The classes of one dimension: pixels [0, kernel - 1) singly, the middle, the last ones singly.
struct ShiftClasses {
  int64_t kernel, out;
  int64_t size() const { return 2 * (kernel - 1) + 1; }
  int64_t begin(int64_t c) const { return c < kernel ? c : out + c - kernel; }
  int64_t end(int64_t c) const { return c == kernel - 1 ? out : begin(c) + 1; }
  // Classes that the places of tap t fall in: [first(t), last(t)).
  int64_t first(int64_t t) const { return t; }
  int64_t last(int64_t t) const { return kernel + t; }
};

template <class T>
struct ShiftSums {
  static constexpr int W = kWidth<T>;
  const Window window;
  const ShiftClasses ys, xs;
  int64_t channels, margin, row;  // row: numbers of a padded row; margin: before its first pixel
  int64_t reach;                  // numbers of a pixel's neighbourhood in one row, in whole vectors
  int64_t table;                  // numbers of one class: sums [reach], products below
  double* tables;    // [ys, xs] of { sums [reach], products [distance down, channel, reach] }
  T *rows, *centre;  // rows: a ring of the last window.y.kernel padded rows; centre: one row

  ShiftSums(const PatchArgs& args, char* scratch)
      : window(args.window),
        ys{window.y.kernel, window.y.out},
        xs{window.x.kernel, window.x.out},
        channels(args.channels) {
    margin = (window.x.kernel - 1) * channels;
    reach = (2 * margin + channels + W - 1) / W * W;
    row = (wide() * channels + margin + reach + W - 1) / W * W;
    table = reach * (1 + window.y.kernel * channels);
    tables = reinterpret_cast<double*>(scratch);
    rows = reinterpret_cast<T*>(tables + ys.size() * xs.size() * table);
    centre = rows + window.y.kernel * row;
  }
  // Whether the window moves by one pixel, and all of this has room in a thread's scratch.
  bool fits() const {
    for (const Span* s : {&window.y, &window.x})
      if (s->stride != 1 || s->dilation != 1 || s->out < s->kernel) return false;
    const int64_t bytes = ys.size() * xs.size() * table * int64_t{sizeof(double)} +
                          (window.y.kernel + 1) * row * int64_t{sizeof(T)};
    return bytes <= static_cast<int64_t>(kScratchBytes);
  }
  int64_t tall() const { return window.y.out + window.y.kernel - 1; }
  int64_t wide() const { return window.x.out + window.x.kernel - 1; }
  T* padded(int64_t y) const { return rows + y % window.y.kernel * row; }
  double* table_of(int64_t cy, int64_t cx) const { return tables + (cy * xs.size() + cx) * table; }

  // The moments of some images.
  void sum(const T* x, int64_t images, double* mean, double* cov) const {
    const int64_t patch = window.taps() * channels, places = window.y.out * window.x.out;
    Recentre offset{patch, channels, static_cast<double>(places), {}, {}};
    double sums[kMostPatch];
    for (int64_t i = 0; i < ys.size() * xs.size() * table; ++i) tables[i] = 0;
    for (int64_t i = 0; i < window.y.kernel * row; ++i) rows[i] = 0;
    for (int64_t i = 0; i < patch * (1 + patch); ++i) mean[i] = 0;
    const int64_t pixels = window.y.in * window.x.in;
    for (int64_t r = 0; r < images; ++r) {
      const T* image = x + r * pixels * channels;
      for (int64_t k = 0; k < ys.size() * xs.size(); ++k)
        for (int64_t i = 0; i < reach; ++i) tables[k * table + i] = 0;
      write_centre(image, pixels, channels, row, centre);
      offset.next(centre, r == 0);
      add(image);
      for (int64_t p = 0; p < patch; ++p)
        sums[p] = over_places(p / channels, margin + p % channels);
      offset.add_sums(sums, mean);
      for (int64_t p = 0; p < patch; ++p) offset.add_products(p, sums, cov + p * patch);
    }
    write(static_cast<double>(images * places), offset.origin, mean, cov);
  }

  // Row y of the padded image, relative to the centre.
  void pad(const T* image, int64_t y) const {
    T* const to = padded(y) + margin;
    const int64_t from_y = y - window.y.pad, count = wide() * channels;
    const bool inside = from_y >= 0 && from_y < window.y.in;
    int64_t begin = window.x.pad * channels, end = begin + window.x.in * channels;
    if (!inside) begin = end = count;
    if (end > count) end = count;
    const T* from = image + from_y * window.x.in * channels - window.x.pad * channels;
    for (int64_t i = 0; i < begin; ++i) to[i] = -centre[i];
    for (int64_t i = begin; i < end; ++i) to[i] = from[i] - centre[i];
    for (int64_t i = end; i < count; ++i) to[i] = -centre[i];
  }

  void add(const T* image) const {
    for (int64_t y = 0; y + 1 < window.y.kernel; ++y) pad(image, y);
    int64_t cy = 0;
    for (int64_t y = 0; y < tall(); ++y) {
      if (y + window.y.kernel <= tall()) pad(image, y + window.y.kernel - 1);
      while (y >= ys.end(cy)) ++cy;
      for (int64_t cx = 0; cx < xs.size(); ++cx)
        for (int64_t x = xs.begin(cx); x < xs.end(cx); x += kShiftRun) {
          const int64_t left = xs.end(cx) - x;
          add_run(y, x, left < kShiftRun ? left : kShiftRun, table_of(cy, cx));
        }
    }
  }

  // The products of `count` pixels of a row with what lies up to a window's reach below.
  void add_run(int64_t y, int64_t x, int64_t count, double* to) const {
    const int64_t left = tall() - y, downs = left < window.y.kernel ? left : window.y.kernel;
    const T* a = padded(y) + margin + x * channels;
    for (int64_t v = 0; v < reach; v += W) {
      add_sums(padded(y) + x * channels + v, count, to + v);
      int64_t down = 0;
      for (; down + 3 <= downs; down += 3)
        add_rows<3>(a, y + down, x * channels + v, count, to + reach * (1 + down * channels) + v);
      for (; down < downs; ++down)
        add_rows<1>(a, y + down, x * channels + v, count, to + reach * (1 + down * channels) + v);
    }
  }

  // The products with the pixels' neighbourhoods in N rows.
  template <int N>
  void add_rows(const T* a, int64_t y, int64_t at, int64_t count, double* to) const {
    const T* b[N];
    for (int n = 0; n < N; ++n) b[n] = padded(y + n) + at;
    int64_t c = 0;
    for (; c + 3 <= channels; c += 3) add_products<3, N>(a + c, b, count, to + c * reach);
    for (; c < channels; ++c) add_products<1, N>(a + c, b, count, to + c * reach);
  }

  // to[n, c, :] += sum over pixels of a[c] b[n, :] for C channels.
  template <int C, int N>
  FASTMAML_INLINE void add_products(const T* a, const T* const* rows_b, int64_t count,
                                    double* to) const {
    Vec<T> acc[N][C];
    const T* b[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      b[n] = rows_b[n];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) acc[n][c] = splat(T(0));
    }
    for (int64_t i = 0; i < count * channels; i += channels) {
      Vec<T> av[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) av[c] = splat(a[i + c]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const Vec<T> bv = load(b[n] + i);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) acc[n][c] += av[c] * bv;
      }
    }
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) add_wide(to + (n * channels + c) * reach, acc[n][c]);
  }

  FASTMAML_INLINE void add_sums(const T* b, int64_t count, double* to) const {
    Vec<T> even = splat(T(0)), odd = even;
    int64_t i = 0;
    for (; i + 2 <= count; i += 2, b += 2 * channels) even += load(b), odd += load(b + channels);
    if (i < count) even += load(b);
    add_wide(to, even + odd);
  }

  static FASTMAML_INLINE void add_wide(double* to, Vec<T> v) {
    T part[W];
    store(part, v);
    for (int i = 0; i < W; ++i) to[i] += static_cast<double>(part[i]);
  }

  // The sum over a tap's places of the entry `at` of their tables.
  double over_places(int64_t tap, int64_t at) const {
    const int64_t ky = tap / window.x.kernel, kx = tap - ky * window.x.kernel;
    double total = 0;
    for (int64_t cy = ys.first(ky); cy < ys.last(ky); ++cy)
      for (int64_t cx = xs.first(kx); cx < xs.last(kx); ++cx) total += table_of(cy, cx)[at];
    return total;
  }

  // mean and cov from the sums that are left in them, relative to `origin`, and the tables'
  // products.
  void write(double count, const double* origin, double* mean, double* cov) const {
    const int64_t patch = window.taps() * channels, kw = window.x.kernel;
    for (int64_t p = 0; p < patch; ++p) mean[p] /= count;
    for (int64_t p = 0; p < patch; ++p)
      for (int64_t q = p; q < patch; ++q) {
        const int64_t from = p / channels, to = q / channels;
        const int64_t down = to / kw - from / kw, right = to % kw - from % kw;
        const int64_t at =
            reach * (1 + down * channels + p % channels) + margin + right * channels + q % channels;
        cov[p * patch + q] = cov[q * patch + p] =
            (cov[p * patch + q] + over_places(from, at)) / count - mean[p] * mean[q];
      }
    for (int64_t p = 0; p < patch; ++p) mean[p] += origin[p];
  }
};

}  // namespace fastmaml::FASTMAML_ISA
