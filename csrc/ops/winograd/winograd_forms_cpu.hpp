// A convolution by Winograd's method on one core: both forms of ConvArgs, made of the contraction's
// tiles at each of the 16 points.
//
// A number of M is summed over runs of channels (images) or blocks of tiles (weights) that follow
// from the shapes alone; threads split c's pixels or columns, or rows and columns of the weight.
#pragma once

#include "ops/contract/contract_outer_cpu.hpp"
#include "ops/conv2d/conv2d_problem_cpu.hpp"
#include "ops/winograd/winograd_lines_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// c[p] = a[p] b[p] at every point, a [m, k], b [k, n]; on top of c unless `first`.
template <class T>
void point_products(const Planes<T>& a, int64_t a_row, int64_t a_col, const Planes<T>& b,
                    const Planes<T>& c, int64_t m, int64_t n, int64_t k, bool first) {
  constexpr int W = kWidth<T>;
  const Cut panels((n + W - 1) / W, kVectorTile);
  for (int p = 0; p < kPoints; ++p) {
    const Segment<T> segment{a.at + p * a.plane, a_row, a_col, b.at + p * b.plane, b.row, 1, k};
    Contraction<T> product{};
    product.segments = &segment, product.count = 1;
    product.c = c.at + p * c.plane, product.c_row = c.row, product.m = m, product.n = n;
    product.scale = T(1), product.gate = Gate::open;
    if (!first) product.so_far = product.c, product.so_far_row = c.row;
    for (int64_t panel = 0; panel < panels.parts; ++panel) {
      const int64_t j = panels.begin(panel) * W, stop = panels.begin(panel + 1) * W;
      const int64_t width = (stop < n ? stop : n) - j;
      const Cut rows(m, row_tile((width + W - 1) / W));
      outer_panel(product, rows, 0, rows.parts, j, width);
    }
  }
}

// Columns in parts of at most `most`, all but the last of whole vectors.
template <class T>
struct Columns {
  Cut cut;
  int64_t n;
  Columns(int64_t columns, int64_t most)
      : cut((columns + kWidth<T> - 1) / kWidth<T>, most / kWidth<T>), n(columns) {}
  int64_t parts() const { return cut.parts; }
  int64_t begin(int64_t part) const { return cut.begin(part) * kWidth<T>; }
  int64_t width(int64_t part) const {
    const int64_t stop = begin(part + 1);
    return (stop < n ? stop : n) - begin(part);
  }
};

// --- images --------------------------------------------------------------------------------------

// c of the tiles [begin, end), columns [j, j + n), from m.
template <class T>
void output_tiles(const ConvProblem<T>& p, const Winograd& map, int64_t begin, int64_t end,
                  int64_t j, int64_t n, const Planes<T>& m) {
  const int64_t down = map.to_w * p.c_row;
  const int64_t shift[4] = {0, p.c_row, down, down + p.c_row};
  each_tile(map, begin, end, [&](int64_t index, const TileAt& at) {
    const int64_t y = 2 * at.y, x = 2 * at.x;
    const int64_t first = at.image * p.c_image + (y * map.to_w + x) * p.c_row + j;
    const bool low = y + 1 < map.to_h, right = x + 1 < map.to_w;
    const bool inside[4] = {true, right, low, low && right};
    const T* const row = m.at + index * m.row;
    each_channels<T>(n, [&](int64_t o, const auto& lanes) __attribute__((always_inline)) {
      Vec<T> points[kPoints], out[4];
#pragma GCC unroll 16
      for (int i = 0; i < kPoints; ++i) points[i] = load(row + i * m.plane + o);
      transform<OutputLine>(points, out);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (!inside[i]) continue;
        const int64_t to = first + shift[i] + o;
        if (p.cin) out[i] = lanes.load(p.cin + (p.cin_row ? to : j + o)) + out[i];
        lanes.store(p.c + to, out[i]);
      }
    });
  });
}

// The tiles and columns that one thread takes, and its scratch.
template <class T>
class ImagesPart {
 public:
  ImagesPart(const ConvProblem<T>& p, const Winograd& w, const Context& context)
      : p_(p),
        w_(w),
        columns_(p.n, w.columns),
        v_(reinterpret_cast<T*>(context.scratch), w.tile_block, p.k),
        m_(v_.at + p.terms * kPoints * v_.plane, w.tile_block, w.columns),
        u_(m_.end(), w.depth, w.columns) {}

  void run(const Context& context) {
    const int64_t total = p_.images * w_.tiles(), parts = columns_.parts();
    // Large weights are better transformed by one thread each than by all.
    const bool by_columns =
        !w_.kept && (parts % context.size == 0 || parts >= int64_t{8} * context.size);
    const Context alone;
    const Share panels(by_columns ? context : alone, parts);
    const Share tiles(by_columns ? alone : context, total, kMostRows);
    const Cut blocks(tiles.end - tiles.begin, w_.tile_block);
    if (tiles.begin == tiles.end) return;
    for (int64_t b = 0; b < blocks.parts; ++b) {
      begin_ = tiles.begin + blocks.begin(b), end_ = tiles.begin + blocks.begin(b + 1);
      for (int t = 0; t < p_.terms; ++t) {
        const TileSource<T> source{p_.a[t],   p_.a_pixel, p_.a_image, p_.k,
                                   w_.from_h, w_.from_w,  w_.pad_y,   w_.pad_x};
        transform_tiles<InputLine>(w_, begin_, end_, source, v(t));
      }
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) block(panel, b == 0);
    }
  }

 private:
  Planes<T> v(int term) const { return v_.moved(term * kPoints * v_.plane); }

  // One panel of columns of the tiles at hand.
  void block(int64_t panel, bool first_block) {
    const int64_t j = columns_.begin(panel), width = columns_.width(panel);
    for (int t = 0; t < p_.terms; ++t)
      for (int64_t i = 0; i < p_.k; i += w_.depth) {
        const int64_t depth = p_.k - i < w_.depth ? p_.k - i : w_.depth;
        const Planes<T> u = w_.kept ? u_.moved((panel * p_.terms + t) * kPoints * u_.plane) : u_;
        if (!w_.kept || first_block)
          transform_weights(p_.b[t] + i * p_.n + j, p_.k * p_.n, p_.n, w_.flipped, depth, width, u);
        point_products(v(t).moved(i), v_.row, 1, u, m_, end_ - begin_, width, depth,
                       t == 0 && i == 0);
      }
    output_tiles(p_, w_, begin_, end_, j, width, m_);
  }

  const ConvProblem<T>& p_;
  const Winograd& w_;
  const Columns<T> columns_;
  const Planes<T> v_, m_, u_;
  int64_t begin_ = 0, end_ = 0;  // the block of tiles at hand
};

// --- weights -------------------------------------------------------------------------------------

// Rows [i, i + k) and columns [j, j + n) of all taps of c, from m.
template <class T>
void output_weights(const ConvProblem<T>& p, int64_t i, int64_t k, int64_t j, int64_t n,
                    const Planes<T>& m) {
  constexpr int kTaps = 9;
  const int64_t tap = p.k * p.n;
  for (int64_t r = 0; r < k; ++r) {
    const T* const row = m.at + r * m.row;
    const int64_t first = (i + r) * p.n + j;
    each_channels<T>(n, [&](int64_t o, const auto& lanes) __attribute__((always_inline)) {
      Vec<T> points[kPoints], g[kTaps];
#pragma GCC unroll 16
      for (int e = 0; e < kPoints; ++e) points[e] = load(row + e * m.plane + o);
      transform<GradientLine>(points, g);
#pragma GCC unroll 9
      for (int t = 0; t < kTaps; ++t) {
        const int64_t to = first + t * tap + o;
        g[t] *= splat(p.scale);
        if (p.cin) g[t] = lanes.load(p.cin + to) + g[t];
        lanes.store(p.c + to, g[t]);
      }
    });
  }
}

// The weight in `columns` parts of columns: in how many parts of rows, so that threads share evenly
// where that takes few more.
inline int64_t row_parts(int64_t k, int64_t depth, int64_t columns, int64_t threads) {
  const int64_t least = (k + depth - 1) / depth;
  for (int64_t parts = least; parts < least + threads && parts <= k; ++parts)
    if (parts * columns % threads == 0) return parts;
  return least;
}

template <class T>
void winograd_weights(const ConvProblem<T>& p, const Winograd& w, const Context& context) {
  const Columns<T> columns(p.n, w.columns);
  const int64_t parts = row_parts(p.k, w.depth, columns.parts(), context.size);
  const Cut rows(p.k, (p.k + parts - 1) / parts);
  const int64_t total = p.images * w.tiles();
  const Planes<T> v(reinterpret_cast<T*>(context.scratch), w.tile_block, w.depth);
  const Planes<T> z(v.end(), w.tile_block, w.columns), m(z.end(), w.depth, w.columns);
  const Share mine(context, rows.parts * columns.parts());
  for (int64_t unit = mine.begin; unit < mine.end; ++unit) {
    const int64_t panel = unit / rows.parts, part = unit % rows.parts;
    const int64_t i = rows.begin(part), depth = rows.begin(part + 1) - i;
    const int64_t j = columns.begin(panel), width = columns.width(panel);
    for (int64_t begin = 0; begin < total; begin += w.tile_block) {
      const int64_t end = begin + w.tile_block < total ? begin + w.tile_block : total;
      for (int t = 0; t < p.terms; ++t) {
        const TileSource<T> a{p.a[t] + i, p.a_pixel, p.a_image, depth,
                              w.from_h,   w.from_w,  w.pad_y,   w.pad_x};
        const TileSource<T> b{p.b[t] + j, p.b_pixel, p.b_image, width, w.to_h, w.to_w, 0, 0};
        transform_tiles<InputLine>(w, begin, end, a, v);
        transform_tiles<CotangentLine>(w, begin, end, b, z);
        point_products(v, 1, v.row, z, m, depth, width, end - begin, begin == 0 && t == 0);
      }
    }
    output_weights(p, i, depth, j, width, m);
  }
}

template <class T>
void winograd(const ConvProblem<T>& p, const ConvArgs& args, const Context& context) {
  if (args.weights)
    winograd_weights(p, args.winograd, context);
  else
    ImagesPart<T>(p, args.winograd, context).run(context);
}

}  // namespace fastmaml::FASTMAML_ISA
