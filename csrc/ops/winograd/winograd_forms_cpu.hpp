// A convolution by Winograd's method on one core: both forms of ConvArgs, made of the contraction's
// tiles at each point.
//
// A number of M is summed over the channels in one order (images), or over blocks of tiles that
// follow from the shapes alone (weights); threads split c's pixels or columns, or rows and columns
// of the weight.
#pragma once

#include "ops/contract/contract_outer_cpu.hpp"
#include "ops/conv2d/conv2d_problem_cpu.hpp"
#include "ops/winograd/winograd_lines_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// c[p] = a[p] b[p] at every point, a [m, k], b [k, n]; on top of c unless `first`. One point's
// matrices fit into a second-level cache, those of all points do not: c is summed over all of k at
// once.
template <class T>
void point_products(int points, const Planes<T>& a, int64_t a_row, int64_t a_col,
                    const Planes<T>& b, const Planes<T>& c, int64_t m, int64_t n, int64_t k,
                    bool first) {
  constexpr int W = kWidth<T>;
  const Cut panels((n + W - 1) / W, kVectorTile);
  for (int p = 0; p < points; ++p) {
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

// The vectors [first, end) of n columns in parts of at most `most` columns.
template <class T>
struct Columns {
  static constexpr int W = kWidth<T>;
  Cut cut;
  int64_t first, n;
  Columns(int64_t from, int64_t end, int64_t columns, int64_t most)
      : cut(end - from, most / W), first(from), n(columns) {}
  Columns(int64_t columns, int64_t most) : Columns(0, (columns + W - 1) / W, columns, most) {}
  int64_t parts() const { return cut.parts; }
  int64_t begin(int64_t part) const { return (first + cut.begin(part)) * W; }
  int64_t width(int64_t part) const {
    const int64_t stop = begin(part + 1);
    return (stop < n ? stop : n) - begin(part);
  }
};

template <class T>
ImagesAt input_images(const ConvProblem<T>& p, const Winograd& w) {
  return {p.images, w.from_h, w.from_w, p.a_pixel, p.a_image, w.pad_y, w.pad_x};
}

// --- images --------------------------------------------------------------------------------------

// c of the tiles [begin, end), columns [j, j + n), from m.
template <class Tile, class T>
void output_tiles(const ConvProblem<T>& p, const Winograd& map, int64_t begin, int64_t end,
                  int64_t j, int64_t n, const Planes<T>& m) {
  constexpr int S = Tile::kTile;
  const ImagesAt images{p.images, map.to_h, map.to_w, p.c_row, p.c_image, 0, 0};
  each_tile(map, begin, end, [&](int64_t index, const TileAt& at) {
    int64_t place[S * S];
    tile_pixels<S>(map, at, images, place);
    const T* const row = m.at + index * m.row;
    each_channels<T>(n, [&](int64_t o, const auto& lanes) __attribute__((always_inline)) {
      transform<typename Tile::Output, Vec<T>>(
          [&](int i) __attribute__((always_inline)) { return load(row + i * m.plane + o); },
          [&](int i, Vec<T> out) __attribute__((always_inline)) {
            if (place[i] < 0) return;
            const int64_t to = place[i] + j + o;
            if (p.cin) out = lanes.load(p.cin + (p.cin_row ? to : j + o)) + out;
            lanes.store(p.c + to, out);
          });
    });
  });
}

// A narrower panel wastes multiply-adds.
constexpr int64_t kFewestVectors = 2;

// Threads share the columns, so that large weights are transformed by one thread each and not by
// all, or the tiles. How c is cut changes no bit of it.
template <class T>
bool shares_columns(int64_t n, const Winograd& w, int64_t threads) {
  return !w.kept && (n + kWidth<T> - 1) / kWidth<T> >= kFewestVectors * threads;
}

// The tiles and columns that one thread takes, and its scratch.
template <class Tile, class T>
class ImagesPart {
 public:
  ImagesPart(const ConvProblem<T>& p, const Winograd& w, const Context& context)
      : p_(p),
        w_(w),
        by_columns_(shares_columns<T>(p.n, w, context.size)),
        vectors_(by_columns_ ? context : Context{}, (p.n + kWidth<T> - 1) / kWidth<T>),
        columns_(vectors_.begin, vectors_.end, p.n, w.columns),
        v_(reinterpret_cast<T*>(context.scratch), w.tile_block, p.k),
        m_(v_.at + p.terms * Tile::kPoints * v_.plane, w.tile_block, w.columns),
        packed_(m_.at + Tile::kPoints * m_.plane),
        u_(packed_ + PlaneSizes(9 * p.k, w.columns, sizeof(T)).plane, p.k, w.columns) {}

  void run(const Context& context) {
    const int64_t total = w_.sheets(p_.images) * w_.tiles();
    const Share tiles(by_columns_ ? Context{} : context, total, kMostRows);
    const Cut blocks(tiles.end - tiles.begin, w_.tile_block);
    if (tiles.begin == tiles.end) return;
    const ImagesAt source = input_images(p_, w_);
    for (int64_t b = 0; b < blocks.parts; ++b) {
      begin_ = tiles.begin + blocks.begin(b), end_ = tiles.begin + blocks.begin(b + 1);
      for (int t = 0; t < p_.terms; ++t) {
        transform_tiles<Tile, typename Tile::Input>(w_, begin_, end_, p_.a[t], source, p_.k, v(t));
      }
      for (int64_t panel = 0; panel < columns_.parts(); ++panel) block(panel, b == 0);
    }
  }

 private:
  Planes<T> v(int term) const { return v_.moved(term * Tile::kPoints * v_.plane); }

  // One panel of columns of the tiles at hand.
  void block(int64_t panel, bool first_block) {
    constexpr int S = Tile::kSide;
    const int64_t j = columns_.begin(panel), width = columns_.width(panel);
    for (int t = 0; t < p_.terms; ++t) {
      const int64_t kept = w_.kept ? (panel * p_.terms + t) * Tile::kPoints * u_.plane : 0;
      const Planes<T> u = u_.moved(kept);
      const bool make = !w_.kept || first_block;
      if (make)
        pack_weights(p_.b[t] + j, p_.k * p_.n, p_.n, w_.flipped, p_.k, width, packed_, m_.row);
      for (int line = 0; line < S; ++line) {
        const Planes<T> at = w_.kept ? u.moved(line * S * u.plane) : u;
        if (make) transform_weights<Tile>(line, packed_, m_.row, p_.k, width, at);
        point_products(S, v(t).moved(line * S * v_.plane), v_.row, 1, at,
                       m_.moved(line * S * m_.plane), end_ - begin_, width, p_.k, t == 0);
      }
    }
    output_tiles<Tile>(p_, w_, begin_, end_, j, width, m_);
  }

  const ConvProblem<T>& p_;
  const Winograd& w_;
  const bool by_columns_;
  const Share vectors_;
  const Columns<T> columns_;
  const Planes<T> v_, m_;
  T* const packed_;
  const Planes<T> u_;
  int64_t begin_ = 0, end_ = 0;  // the block of tiles at hand
};

// --- weights -------------------------------------------------------------------------------------

// Rows [i, i + k) and columns [j, j + n) of all taps of c, from m.
template <class Tile, class T>
void output_weights(const ConvProblem<T>& p, int64_t i, int64_t k, int64_t j, int64_t n,
                    const Planes<T>& m) {
  const int64_t tap = p.k * p.n;
  for (int64_t r = 0; r < k; ++r) {
    const T* const row = m.at + r * m.row;
    const int64_t first = (i + r) * p.n + j;
    each_channels<T>(n, [&](int64_t o, const auto& lanes) __attribute__((always_inline)) {
      transform<typename Tile::Gradient, Vec<T>>(
          [&](int i) __attribute__((always_inline)) { return load(row + i * m.plane + o); },
          [&](int t, Vec<T> g) __attribute__((always_inline)) {
            const int64_t to = first + t * tap + o;
            __builtin_prefetch(p.c + to + 2 * p.n, 1);
            g *= splat(p.scale);
            if (p.cin) g = lanes.load(p.cin + to) + g;
            lanes.store(p.c + to, g);
          });
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

template <class Tile, class T>
void winograd_weights(const ConvProblem<T>& p, const Winograd& w, const Context& context) {
  const Columns<T> columns(p.n, w.columns);
  const int64_t parts = row_parts(p.k, w.depth, columns.parts(), context.size);
  const Cut rows(p.k, (p.k + parts - 1) / parts);
  const int64_t total = w.sheets(p.images) * w.tiles();
  const ImagesAt inputs = input_images(p, w);
  const ImagesAt cotangents{p.images, w.to_h, w.to_w, p.b_pixel, p.b_image, 0, 0};
  const Planes<T> v(reinterpret_cast<T*>(context.scratch), w.tile_block, w.depth);
  const Planes<T> z(v.at + Tile::kPoints * v.plane, w.tile_block, w.columns);
  const Planes<T> m(z.at + Tile::kPoints * z.plane, w.depth, w.columns);
  const Share mine(context, rows.parts * columns.parts());
  for (int64_t unit = mine.begin; unit < mine.end; ++unit) {
    const int64_t panel = unit / rows.parts, part = unit % rows.parts;
    const int64_t i = rows.begin(part), depth = rows.begin(part + 1) - i;
    const int64_t j = columns.begin(panel), width = columns.width(panel);
    for (int64_t begin = 0; begin < total; begin += w.tile_block) {
      const int64_t end = begin + w.tile_block < total ? begin + w.tile_block : total;
      for (int t = 0; t < p.terms; ++t) {
        transform_tiles<Tile, typename Tile::Input>(w, begin, end, p.a[t] + i, inputs, depth, v);
        transform_tiles<Tile, typename Tile::Cotangent>(w, begin, end, p.b[t] + j, cotangents,
                                                        width, z);
        point_products(Tile::kPoints, v, 1, v.row, z, m, depth, width, end - begin,
                       begin == 0 && t == 0);
      }
    }
    output_weights<Tile>(p, i, depth, j, width, m);
  }
}

template <class Tile, class T>
void winograd_by(const ConvProblem<T>& p, const ConvArgs& args, const Context& context) {
  if (args.weights)
    winograd_weights<Tile>(p, args.winograd, context);
  else
    ImagesPart<Tile, T>(p, args.winograd, context).run(context);
}

template <class T>
void winograd(const ConvProblem<T>& p, const ConvArgs& args, const Context& context) {
  if (args.winograd.tile == 4)
    winograd_by<Tile4>(p, args, context);
  else
    winograd_by<Tile5>(p, args, context);
}

}  // namespace fastmaml::FASTMAML_ISA
