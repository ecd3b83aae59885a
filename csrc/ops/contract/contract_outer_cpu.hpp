// The outer form: a problem cut into register tiles, panel of columns by panel of columns.
//
// When many row tiles read the same panel of b from far-apart rows, the panel is packed first; when
// a too lies across its rows, both factors are packed in blocks.
#pragma once

#include "ops/contract/contract_tile_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// How one problem size is cut into tiles, and which of them this thread takes. Divisions cost as
// much as a small tile, so this is made once for all tasks of an instruction.
template <class T>
struct Tiling {
  Cut panels, rows;
  int64_t panel, row, units;  // the first tile and how many

  Tiling(int64_t m, int64_t n, const Context& context)
      : panels((n + kWidth<T> - 1) / kWidth<T>, kVectorTile),
        rows(m, row_tile<T>(panels.size + (panels.larger > 0))) {
    const Share share(context, panels.parts * rows.parts);
    panel = rows.parts == 1 ? share.begin : share.begin / rows.parts;
    row = share.begin - panel * rows.parts;
    units = share.end - share.begin;
  }
};

// Copies columns [j, j + width) of each segment's b to contiguous rows and points segments there.
template <class T>
void pack_panel(Segment<T>* segments, int count, int64_t j, int64_t width, T* panel) {
  for (int s = 0; s < count; ++s) {
    const T* b = segments[s].b + j;
    T* to = panel;
    for (int64_t l = 0; l < segments[s].k; ++l, b += segments[s].b_row, to += width) {
      // The next panel lies beside this one, in lines that no hardware prefetcher foresees.
      for (int64_t v = 0; v < width; v += kLineBytes / static_cast<int64_t>(sizeof(T)))
        fetch(b + width + v);
      each_vector<T>(
          0, width, [&](int64_t v) { store(to + v, load(b + v)); },
          [&](int64_t v, const Tail<T>& tail) { tail.store(to + v, tail.load(b + v)); });
    }
    // Minus j: the tile adds it back.
    segments[s].b = panel - j;
    segments[s].b_row = width;
    panel = to;
  }
}

// Cuts the next run of at most `room` l's off the segments; `s`, `done` say how far they are used.
template <class T>
int next_run(const Contraction<T>& p, int64_t room, int& s, int64_t& done, Segment<T>* run,
             int64_t& depth) {
  int count = 0;
  depth = 0;
  while (s < p.count && room > 0) {
    Segment<T>& to = run[count++] = p.segments[s];
    const int64_t left = to.k - done;
    to.a += done * to.a_col, to.b += done * to.b_row;
    to.k = left < room ? left : room;
    room -= to.k, done += to.k, depth += to.k;
    if (done == p.segments[s].k) ++s, done = 0;
  }
  return count;
}

// The part of p between two runs of its sum: what was summed so far lies in c.
template <class T>
void carry(const Contraction<T>& p, Contraction<T>& part, bool first, bool last) {
  if (!first) part.so_far = p.c, part.so_far_row = p.c_row;
  part.scaled = last && p.scaled;
  part.gate = last ? p.gate : Gate::open;
}

// The tiles [begin, end) of one vertical panel, over one run of segments.
template <class T>
void outer_panel(const Contraction<T>& p, const Cut& rows, int64_t begin, int64_t end, int64_t j,
                 int64_t width) {
  const int edge = edge_lanes<T>(width);
  OuterTile<T> tile = nullptr;
  for (int64_t r = begin, height = 0; r < end; ++r) {
    const int64_t i = rows.begin(r), count = rows.begin(r + 1) - i;
    if (count != height) height = count, tile = outer_tile_for<T>(static_cast<int>(count), width);
    tile(p, i, j, edge);
  }
}

// One panel, its b packed in blocks of l: deep enough that c is seldom reread, 128 KiB at most.
constexpr int64_t kPanelDepth = 2 * kChain;

template <class T>
void outer_panel_packed(const Contraction<T>& p, const Cut& rows, int64_t begin, int64_t end,
                        int64_t j, int64_t width, T* scratch) {
  Segment<T> local[kMaxSegments];
  Contraction<T> part = p;
  part.segments = local;
  int s = 0;
  int64_t done = 0, depth = 0;
  for (bool first = true; s < p.count; first = false) {
    part.count = next_run(p, kPanelDepth, s, done, local, depth);
    pack_panel(local, part.count, j, width, scratch);
    carry(p, part, first, s == p.count);
    outer_panel(part, rows, begin, end, j, width);
  }
}

// Both factors packed, for sums over many rows whose a lies across them (weight gradients of wide
// layers): a[i, l] of neighbouring l would fall into the same few sets of every cache. A block of
// kBlockRows x kBlockDepth of a fills about half of a second-level cache; the panel of b streams.
constexpr int64_t kBlockDepth = kChain;
template <class T>
constexpr int64_t kBlockRows = 1024 / static_cast<int64_t>(sizeof(T));

static_assert(kBlockRows<float> * kBlockDepth * int64_t{sizeof(float)} +
                      kBlockDepth * kVectorTile * kVectorBytes <=
                  int64_t{kScratchBytes} &&
              kPanelDepth * kVectorTile * kVectorBytes <= int64_t{kScratchBytes});

// Tile by tile, [tile][l][rows of the tile].
template <class T>
void pack_rows(const Segment<T>* segments, int count, const Cut& rows, int64_t begin, int64_t end,
               int64_t depth, T* to) {
  for (int64_t r = begin; r < end; ++r) {
    const int64_t i = rows.begin(r), height = rows.begin(r + 1) - i;
    T* tile = to + (i - rows.begin(begin)) * depth;
    for (int s = 0; s < count; ++s)
      for (int64_t l = 0; l < segments[s].k; ++l)
        for (int64_t e = 0; e < height; ++e)
          *tile++ = segments[s].a[(i + e) * segments[s].a_row + l * segments[s].a_col];
  }
}

template <class T>
void outer_blocked(const Contraction<T>& p, const Tiling<T>& tiling, const Context& context) {
  constexpr int W = kWidth<T>;
  T* a_block = reinterpret_cast<T*>(context.scratch);
  T* b_panel = a_block + kBlockRows<T> * kBlockDepth;
  const Share panels(context, tiling.panels.parts);
  const Cut& rows = tiling.rows;
  const int64_t tiles = kBlockRows<T> / (rows.size + (rows.larger > 0));
  for (int64_t from = 0; from < rows.parts; from += tiles) {
    const int64_t to = from + tiles < rows.parts ? from + tiles : rows.parts;
    int s = 0;
    int64_t done = 0, depth = 0;
    for (bool first = true; s < p.count; first = false) {
      Segment<T> run[kMaxSegments];
      const int count = next_run(p, kBlockDepth, s, done, run, depth);
      pack_rows(run, count, rows, from, to, depth, a_block);
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int64_t j = tiling.panels.begin(panel) * W;
        const int64_t stop = tiling.panels.begin(panel + 1) * W;
        const int64_t width = (stop < p.n ? stop : p.n) - j;
        Segment<T> local[kMaxSegments];
        for (int i = 0; i < count; ++i) local[i] = run[i];
        pack_panel(local, count, j, width, b_panel);
        Segment<T> packed{nullptr, 1, 0, b_panel - j, width, 1, depth};
        Contraction<T> part = p;
        part.segments = &packed, part.count = 1;
        carry(p, part, first, s == p.count);
        for (int64_t r = from; r < to; ++r) {
          const int64_t i = rows.begin(r);
          packed.a_col = rows.begin(r + 1) - i;
          // Minus i: the tile adds it back.
          packed.a = a_block + (i - rows.begin(from)) * depth - i;
          outer_panel(part, rows, r, r + 1, j, width);
        }
      }
    }
  }
}

constexpr int64_t kRowsToPack = 4;  // row tiles

template <class T>
void outer_contract(const Contraction<T>& p, const Tiling<T>& tiling, const Context& context) {
  constexpr int W = kWidth<T>;
  // Packing costs a load and a store for each number of b; some row tiles repay it.
  // (Blocks of l leave partial sums in c, which a scaled sum in place cannot afford.)
  const bool far = p.count > 0 && p.segments[0].b_row * int64_t(sizeof(T)) >= 512;
  const bool packable = far && !(p.scaled && p.cin == p.c);
  if (packable && p.segments[0].a_row == 1 && p.segments[0].a_col >= 128 &&
      tiling.rows.parts >= 8 && tiling.panels.parts >= 2 * context.size && p.depth() >= 64)
    return outer_blocked(p, tiling, context);
  int64_t begin = tiling.row;
  for (int64_t panel = tiling.panel, left = tiling.units; left > 0; ++panel) {
    const int64_t end = begin + left < tiling.rows.parts ? begin + left : tiling.rows.parts;
    const int64_t j = tiling.panels.begin(panel) * W;
    const int64_t stop = tiling.panels.begin(panel + 1) * W;
    const int64_t width = (stop < p.n ? stop : p.n) - j;
    if (packable && end - begin >= kRowsToPack)
      outer_panel_packed(p, tiling.rows, begin, end, j, width,
                         reinterpret_cast<T*>(context.scratch));
    else
      outer_panel(p, tiling.rows, begin, end, j, width);
    left -= end - begin;
    begin = 0;
  }
}

// A sum of more than kDeep, in runs of it that are added up in c: as many chains as a chain has
// terms. Only for tiles of too few rows to pack anything; the order of packed sums is another.
constexpr int64_t kDeep = kChain * kChain;

template <class T>
[[gnu::noinline]] void outer_deep(const Contraction<T>& p, const Tiling<T>& tiling,
                                  const Context& context) {
  Segment<T> run[kMaxSegments];
  Contraction<T> part = p;
  part.segments = run, part.scaled = true, part.so_far = nullptr;
  int s = 0;
  int64_t done = 0, depth = 0;
  for (bool first = true; s < p.count; first = false) {
    part.count = next_run(p, kDeep, s, done, run, depth);
    if (!first) part.cin = p.c, part.cin_row = p.c_row;
    part.gate = s == p.count ? p.gate : Gate::open;
    outer_contract(part, tiling, context);
  }
}

}  // namespace fastmaml::FASTMAML_ISA
