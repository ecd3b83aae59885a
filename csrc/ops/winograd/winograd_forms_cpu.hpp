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

// What is multiplied at each point: a [m, k] and b [k, n] of every term.
template <class T>
struct PointFactors {
  Planes<T> a, b;
  int64_t a_row, a_col;
  int64_t k;
  int terms = 1;
  int64_t a_term = 0, b_term = 0;  // elements from a term to the next
  int64_t chain = kChain;
};

// c[p] = sum over terms of a[p] b[p] at every point; on top of c unless `first`. One point's
// matrices fit into a second-level cache, those of all points do not: c is summed over all of k at
// once.
template <class T>
void point_products(int points, const PointFactors<T>& f, const Planes<T>& c, int64_t m, int64_t n,
                    bool first) {
  constexpr int W = kWidth<T>;
  const Cut panels((n + W - 1) / W, kVectorTile);
  for (int p = 0; p < points; ++p) {
    Segment<T> segments[kMostConvTerms];
    for (int t = 0; t < f.terms; ++t)
      segments[t] = {f.a.at + p * f.a.plane + t * f.a_term,
                     f.a_row,
                     f.a_col,
                     f.b.at + p * f.b.plane + t * f.b_term,
                     f.b.row,
                     1,
                     f.k};
    Contraction<T> product{};
    product.segments = segments, product.count = f.terms;
    product.c = c.at + p * c.plane, product.c_row = c.row, product.m = m, product.n = n;
    product.scale = T(1), product.gate = Gate::open, product.chain = f.chain;
    if (!first) product.so_far = product.c, product.so_far_row = c.row;
    for (int64_t panel = 0; panel < panels.parts; ++panel) {
      const int64_t j = panels.begin(panel) * W, stop = panels.begin(panel + 1) * W;
      const int64_t width = (stop < n ? stop : n) - j;
      const Cut rows(m, row_tile<T>((width + W - 1) / W));
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

template <class T>
ImagesAt cotangent_images(const ConvProblem<T>& p, const Winograd& w) {
  return {p.images, w.to_h, w.to_w, p.b_pixel, p.b_image, 0, 0};
}

// --- images --------------------------------------------------------------------------------------

// c of the tiles [begin, end), columns [j, j + n), from m.
template <class Tile, class T>
void output_tiles(const ConvProblem<T>& p, const Winograd& map, int64_t begin, int64_t end,
                  int64_t j, int64_t n, const Planes<T>& m) {
  constexpr int S = Tile::kTile;
  const ImagesAt images{p.images, map.to_h, map.to_w, p.c_row, p.c_image, 0, 0};
  constexpr int64_t kAhead = 2 * S;
  TilePixels<S> places(map, images);
  T* to[S * S];
  each_tile(map, begin, end, [&](int64_t index, const TileAt& at) {
    places.find(at, p.c, static_cast<T*>(nullptr), to);
    const T* const row = m.at + index * m.row;
    each_channels<T>(n, [&](int64_t o, const auto& lanes) __attribute__((always_inline)) {
      const int64_t channel = j + o;
      transform<typename Tile::Output, Vec<T>>(
          [&](int i) __attribute__((always_inline)) { return load(row + i * m.plane + o); },
          [&](int i, Vec<T> out) __attribute__((always_inline)) {
            if (!to[i]) return;
            T* const at_pixel = to[i] + channel;
            fetch(at_pixel + kAhead * images.pixel);
            if (p.cin) out = lanes.load(p.cin + (p.cin_row ? at_pixel - p.c : channel)) + out;
            lanes.store(at_pixel, out);
          });
    });
  });
}

// A narrower panel wastes multiply-adds.
constexpr int64_t kFewestVectors = 2;

// One part of the images form, and its thread's scratch. Kept weights are in the team's.
// How c is cut changes no bit of it.
template <class Tile, class T>
class ImagesPart {
 public:
  ImagesPart(const ConvProblem<T>& p, const Winograd& w, const Context& context)
      : p_(p),
        w_(w),
        context_(context),
        team_((context.team_scratch - context.scratch) / static_cast<int64_t>(sizeof(T))),
        total_(w.sheets(p.images) * w.tiles()),
        v_(reinterpret_cast<T*>(context.scratch), w.tile_block, p.k),
        m_(v_.at + p.terms * Tile::kPoints * v_.plane, w.tile_block, w.columns),
        half_(m_.at + Tile::kPoints * m_.plane, 3 * p.k, w.columns),
        u_(half_.at + S * half_.plane, p.k, w.columns) {}

  // The weights of all columns are made together, then each part takes tiles.
  void with_kept_weights() {
    if (context_.phase < 0 || context_.phase % 2 == 0) keep_weights();
    if (context_.phase < 0 || context_.phase % 2 == 1) use_kept_weights();
  }

  // Each thread takes columns, whose weights it makes, or where there are few columns some tiles of
  // them; block by block it makes the pixels of its tiles, and so do others.
  void with_weights_of_panels() {
    const Context side = of_columns();
    const Share all(Context{}, p_.k), vectors(side, (p_.n + kWidth<T> - 1) / kWidth<T>);
    const Columns<T> columns(vectors.begin, vectors.end, p_.n, w_.columns);
    const Cut blocks(total_, w_.tile_block);
    for (int64_t b = 0; b < blocks.parts; ++b) {
      const int64_t begin = blocks.begin(b), count = blocks.begin(b + 1) - begin;
      const Share mine(of_tiles(side), count, kMostRows);
      const int64_t height = mine.end - mine.begin;
      transform_images(begin + mine.begin, height, v_);
      for (int64_t panel = 0; panel < columns.parts() && height > 0; ++panel) {
        const int64_t width = columns.width(panel);
        for (int t = 0; t < p_.terms; ++t) {
          halve(t, columns, panel, all);
          for (int line = 0; line < S; ++line) {
            to_line(line, all, width, u_);
            point_products<T>(S,
                              {v_.moved(t * v_term() + line * S * v_.plane), u_, v_.row, 1, p_.k, 1,
                               0, 0, Tile::kLongest},
                              m_.moved(line * S * m_.plane), height, width, t == 0);
          }
        }
        output_tiles<Tile>(p_, w_, begin + mine.begin, begin + mine.end, columns.begin(panel),
                           width, m_);
      }
    }
  }

 private:
  static constexpr int S = Tile::kSide;

  void keep_weights() {
    const Columns<T> columns(p_.n, w_.columns);
    const Share rows(context_, p_.k);
    for (int64_t panel = 0; panel < columns.parts(); ++panel)
      for (int t = 0; t < p_.terms; ++t) {
        halve(t, columns, panel, rows);
        for (int line = 0; line < S; ++line)
          to_line(line, rows, columns.width(panel),
                  kept(panel, t, line).moved(rows.begin * u_.row));
      }
  }
  void use_kept_weights() {
    const Columns<T> columns(p_.n, w_.columns);
    const Share tiles(context_, total_, kMostRows);
    const Cut blocks(tiles.end - tiles.begin, w_.tile_block);
    for (int64_t b = 0; b < blocks.parts && tiles.begin < tiles.end; ++b) {
      const int64_t begin = tiles.begin + blocks.begin(b);
      const int64_t count = tiles.begin + blocks.begin(b + 1) - begin;
      transform_images(begin, count, v_);
      for (int64_t panel = 0; panel < columns.parts(); ++panel) {
        const int64_t width = columns.width(panel);
        const PointFactors<T> all{
            v_,       kept(panel, 0, 0),        v_.row,        1, p_.k, p_.terms,
            v_term(), Tile::kPoints * u_.plane, Tile::kLongest};
        point_products(Tile::kPoints, all, m_, count, width, true);
        output_tiles<Tile>(p_, w_, begin, begin + count, columns.begin(panel), width, m_);
      }
    }
  }

  // Threads that share the columns: all, where each gets enough of them.
  Context of_columns() const {
    const int64_t vectors = (p_.n + kWidth<T> - 1) / kWidth<T>;
    Context side;
    side.size = context_.size;
    while (side.size > 1 &&
           (context_.size % side.size != 0 || vectors < kFewestVectors * side.size))
      --side.size;
    side.rank = context_.rank % side.size;
    return side;
  }
  Context of_tiles(const Context& columns) const {
    Context side;
    side.size = context_.size / columns.size, side.rank = context_.rank / columns.size;
    return side;
  }

  int64_t v_term() const { return Tile::kPoints * v_.plane; }
  Planes<T> kept(int64_t panel, int term, int line) const {
    return u_.moved(team_ +
                    ((panel * p_.terms + term) * Tile::kPoints + line * Tile::kSide) * u_.plane);
  }
  // Some rows of one panel's weights.
  void halve(int term, const Columns<T>& columns, int64_t panel, const Share& rows) {
    halve_weights<Tile>(p_.b[term] + rows.begin * p_.n + columns.begin(panel), p_.k * p_.n, p_.n,
                        w_.flipped, rows.end - rows.begin, columns.width(panel), half_);
  }
  void to_line(int line, const Share& rows, int64_t width, const Planes<T>& to) {
    transform_weights<Tile>(half_.at + line * half_.plane, half_.row, rows.end - rows.begin, width,
                            to);
  }
  void transform_images(int64_t begin, int64_t count, const Planes<T>& to) {
    const ImagesAt source = input_images(p_, w_);
    for (int t = 0; t < p_.terms; ++t)
      transform_tiles<Tile, typename Tile::Input>(w_, begin, begin + count, p_.a[t], source, p_.k,
                                                  to.moved(t * v_term()));
  }

  const ConvProblem<T>& p_;
  const Winograd& w_;
  const Context& context_;
  const int64_t team_;  // from this thread's scratch to the team's
  const int64_t total_;
  const Planes<T> v_, m_, half_, u_;
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
            fetch(p.c + to + 2 * p.n);
            if (p.cin) fetch(p.cin + to + 2 * p.n);
            g *= splat(p.scale);
            if (p.cin) g = lanes.load(p.cin + to) + g;
            lanes.store(p.c + to, g);
          });
    });
  }
}

// The weight in `columns` parts of columns: in how many parts of rows, so that threads share the
// units evenly where that takes few more.
inline int64_t row_parts(int64_t k, int64_t depth, int64_t columns, int64_t threads) {
  const int64_t least = (k + depth - 1) / depth;
  for (int64_t parts = least; parts < least + threads && parts <= k; ++parts)
    if (parts * columns % threads == 0) return parts;
  return least;
}

// A unit is some rows and columns of the weight. Each thread transforms what its unit takes, and so
// do others: threads may share no cache, and where they do, waiting for each other costs as much.
template <class Tile, class T>
void winograd_weights(const ConvProblem<T>& p, const Winograd& w, const Context& context) {
  const Columns<T> columns(p.n, w.columns);
  const int64_t parts = row_parts(p.k, w.depth, columns.parts(), context.size);
  const Cut rows(p.k, (p.k + parts - 1) / parts);
  const int64_t total = w.sheets(p.images) * w.tiles(), units = rows.parts * columns.parts();
  const ImagesAt inputs = input_images(p, w);
  const ImagesAt cotangents = cotangent_images(p, w);
  const Planes<T> z(reinterpret_cast<T*>(context.scratch), w.tile_block, w.columns);
  const Planes<T> v(z.at + Tile::kPoints * z.plane, w.tile_block, w.depth);
  const Planes<T> m(v.at + Tile::kPoints * v.plane, w.depth, w.columns);
  for (int64_t unit = context.rank; unit < units; unit += context.size) {
    const int64_t panel = unit / rows.parts, part = unit % rows.parts;
    const int64_t i = rows.begin(part), depth = rows.begin(part + 1) - i;
    const int64_t j = columns.begin(panel), width = columns.width(panel);
    for (int64_t begin = 0; begin < total; begin += w.tile_block) {
      const int64_t end = begin + w.tile_block < total ? begin + w.tile_block : total;
      for (int t = 0; t < p.terms; ++t) {
        transform_tiles<Tile, typename Tile::Cotangent>(w, begin, end, p.b[t] + j, cotangents,
                                                        width, z);
        transform_tiles<Tile, typename Tile::Input>(w, begin, end, p.a[t] + i, inputs, depth, v);
        point_products<T>(Tile::kPoints, {v, z, 1, v.row, end - begin}, m, depth, width,
                          begin == 0 && t == 0);
      }
    }
    output_weights<Tile>(p, i, depth, j, width, m);
  }
}

// A thread's rows of the weight, whose pixels it makes once, and some columns' cotangents at a
// time: the rows are then taken in parts whose matrices share its second-level cache.
template <class Tile, class T>
void weights_of_kept_pixels(const ConvProblem<T>& p, const Winograd& w, const Context& context) {
  const Columns<T> columns(p.n, w.columns);
  const int64_t total = w.sheets(p.images) * w.tiles();
  const Share mine(context, p.k, kWidth<T>);
  const int64_t height = mine.end - mine.begin;
  if (height <= 0) return;
  const Cut parts(height, w.depth);
  const ImagesAt inputs = input_images(p, w);
  const ImagesAt cotangents = cotangent_images(p, w);
  const Planes<T> v(reinterpret_cast<T*>(context.scratch), total, height);
  const int64_t v_term = Tile::kPoints * v.plane;
  const Planes<T> z(v.at + p.terms * v_term, total, w.columns);
  const int64_t z_term = Tile::kPoints * z.plane;
  const Planes<T> m(z.at + p.terms * z_term, w.depth, w.columns);
  for (int t = 0; t < p.terms; ++t)
    transform_tiles<Tile, typename Tile::Input>(w, 0, total, p.a[t] + mine.begin, inputs, height,
                                                v.moved(t * v_term));
  for (int64_t panel = 0; panel < columns.parts(); ++panel) {
    const int64_t j = columns.begin(panel), width = columns.width(panel);
    for (int t = 0; t < p.terms; ++t)
      transform_tiles<Tile, typename Tile::Cotangent>(w, 0, total, p.b[t] + j, cotangents, width,
                                                      z.moved(t * z_term));
    for (int64_t part = 0; part < parts.parts; ++part) {
      const int64_t i = parts.begin(part), depth = parts.begin(part + 1) - i;
      point_products<T>(Tile::kPoints, {v.moved(i), z, 1, v.row, total, p.terms, v_term, z_term}, m,
                        depth, width, true);
      output_weights<Tile>(p, mine.begin + i, depth, j, width, m);
    }
  }
}

template <class Tile, class T>
void winograd_images(const ConvProblem<T>& p, const Winograd& w, const Context& context) {
  ImagesPart<Tile, T> part(p, w, context);
  w.kept ? part.with_kept_weights() : part.with_weights_of_panels();
}

template <class Tile, class T>
void winograd_by(const ConvProblem<T>& p, const ConvArgs& args, const Context& context) {
  const Winograd& w = args.winograd;
  if (!args.weights) return winograd_images<Tile>(p, w, context);
  w.kept ? weights_of_kept_pixels<Tile>(p, w, context) : winograd_weights<Tile>(p, w, context);
}

template <class T>
void winograd(const ConvProblem<T>& p, const ConvArgs& args, const Context& context) {
  switch (args.winograd.tile) {
    case kForwardTile:
      return winograd_images<Tile<kForwardTile>>(p, args.winograd, context);
    case 5:
      return winograd_by<Tile<5>>(p, args, context);
    default:
      return winograd_by<Tile<6>>(p, args, context);
  }
}

}  // namespace fastmaml::FASTMAML_ISA
