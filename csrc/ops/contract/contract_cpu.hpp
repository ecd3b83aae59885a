// The contraction on one core: register tiles of outer products, or of inner products.
//
// Each output element is one chain of multiply-adds over its terms, in order, whatever tile it
// falls into and whichever thread computes it: that is what makes results bitwise independent of
// threads and of neighbouring tasks.
//
// Outer form: a tile of MR rows x NV vectors of c stays in registers while l runs over all terms;
// per l it loads NV vectors of b and broadcasts MR numbers of a. 6 x 4 vectors (AVX-512, 32
// registers) or 6 x 2 (16 registers) leave the loads well below one for each multiply-add.
// When many row tiles read the same panel of b from far-apart rows, the panel is packed first.
#pragma once

#include "cpu/context.hpp"
#include "cpu/simd.hpp"
#include "ops/contract/contract.hpp"

namespace fastmaml::FASTMAML_ISA {

// One run of l: a[i * a_row + l * a_col] * b[l * b_row + j * b_col] for l < k.
template <class T>
struct Segment {
  const T* a;
  int64_t a_row, a_col;
  const T* b;
  int64_t b_row, b_col, k;
};

template <class T>
struct Contraction {
  const Segment<T>* segments;
  int count;
  const T* cin;  // null: zero
  int64_t cin_row;
  T* c;
  int64_t c_row, m, n;
  T scale;
};

constexpr int kMaxSegments = 64;
constexpr int kRowTile = 6;
constexpr int kVectorTile = kVectorBytes == 64 ? 4 : 2;

// --- outer products ------------------------------------------------------------------------------

template <class T, int MR, int NV, bool kTail>
void outer_tile(const Contraction<T>& p, int64_t i, int64_t j, const Tail<T>& tail, bool first,
                bool last) {
  constexpr int W = kWidth<T>;
  Vec<T> acc[MR][NV];
  const T* cin = first ? p.cin : p.c;
  const int64_t cin_row = first ? p.cin_row : p.c_row;
  const bool chained = !first || (cin && p.scale == T(1));
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      if (!chained) {
        acc[r][v] = Vec<T>{};
      } else {
        const T* from = cin + (i + r) * cin_row + j + v * W;
        acc[r][v] = kTail && v == NV - 1 ? tail.load(from) : load(from);
      }
    }
  for (int s = 0; s < p.count; ++s) {
    const Segment<T>& segment = p.segments[s];
    const T* a = segment.a + i * segment.a_row;
    const T* b = segment.b + j;
    const int64_t a_row = segment.a_row, a_col = segment.a_col, b_row = segment.b_row;
    for (int64_t l = 0; l < segment.k; ++l, a += a_col, b += b_row) {
      Vec<T> bv[NV];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v)
        bv[v] = kTail && v == NV - 1 ? tail.load(b + v * W) : load(b + v * W);
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) {
        const Vec<T> av = splat(a[r * a_row]);
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) acc[r][v] += av * bv[v];
      }
    }
  }
  const bool scaled = last && p.scale != T(1);
  const Vec<T> scale = splat(p.scale);
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const bool partial = kTail && v == NV - 1;
      Vec<T> value = acc[r][v];
      if (scaled) {
        value *= scale;
        if (p.cin) {
          const T* from = p.cin + (i + r) * p.cin_row + j + v * W;
          value += partial ? tail.load(from) : load(from);
        }
      }
      T* to = p.c + (i + r) * p.c_row + j + v * W;
      partial ? tail.store(to, value) : store(to, value);
    }
}

template <class T>
using OuterTile = void (*)(const Contraction<T>&, int64_t, int64_t, const Tail<T>&, bool, bool);

template <class T, int NV, bool kTail>
FASTMAML_INLINE OuterTile<T> outer_rows(int rows) {
  constexpr OuterTile<T> table[kRowTile] = {
      outer_tile<T, 1, NV, kTail>, outer_tile<T, 2, NV, kTail>, outer_tile<T, 3, NV, kTail>,
      outer_tile<T, 4, NV, kTail>, outer_tile<T, 5, NV, kTail>, outer_tile<T, 6, NV, kTail>};
  return table[rows - 1];
}

template <class T>
FASTMAML_INLINE OuterTile<T> outer_tile_for(int rows, int vectors, bool tail) {
  if constexpr (kVectorTile == 4) {
    if (vectors == 4) return tail ? outer_rows<T, 4, true>(rows) : outer_rows<T, 4, false>(rows);
    if (vectors == 3) return tail ? outer_rows<T, 3, true>(rows) : outer_rows<T, 3, false>(rows);
  }
  if (vectors == 2) return tail ? outer_rows<T, 2, true>(rows) : outer_rows<T, 2, false>(rows);
  return tail ? outer_rows<T, 1, true>(rows) : outer_rows<T, 1, false>(rows);
}

// [0, count) cut into the fewest parts of at most `most`, as even as possible.
struct Cut {
  int64_t parts, size, larger;  // the first `larger` parts have size + 1
  FASTMAML_INLINE Cut(int64_t count, int64_t most)
      : parts((count + most - 1) / most), size(count / parts), larger(count % parts) {}
  FASTMAML_INLINE int64_t begin(int64_t part) const {
    return part * size + (part < larger ? part : larger);
  }
};

// Copies columns [j, j + width) of each segment's b to contiguous rows and points segments there.
template <class T>
void pack_panel(Segment<T>* segments, int count, int64_t j, int64_t width, T* panel) {
  for (int s = 0; s < count; ++s) {
    const T* b = segments[s].b + j;
    T* to = panel;
    for (int64_t l = 0; l < segments[s].k; ++l, b += segments[s].b_row, to += width)
      each_vector<T>(
          0, width, [&](int64_t v) { store(to + v, load(b + v)); },
          [&](int64_t v, const Tail<T>& tail) { tail.store(to + v, tail.load(b + v)); });
    // Minus j: the tile adds it back.
    segments[s].b = panel - j;
    segments[s].b_row = width;
    panel = to;
  }
}

// The tiles [begin, end) of one vertical panel, over one run of segments.
template <class T>
void outer_panel(const Contraction<T>& p, const Cut& rows, int64_t begin, int64_t end, int64_t j,
                 int64_t width, bool first, bool last) {
  constexpr int W = kWidth<T>;
  const int vectors = static_cast<int>((width + W - 1) / W);
  const int rest = static_cast<int>(width % W);
  const Tail<T> tail(rest ? rest : W);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t i = rows.begin(r);
    const int count = static_cast<int>(rows.begin(r + 1) - i);
    outer_tile_for<T>(count, vectors, rest != 0)(p, i, j, tail, first, last);
  }
}

// One panel, its b packed: blocks of l as long as the scratch holds.
template <class T>
void outer_panel_packed(const Contraction<T>& p, const Cut& rows, int64_t begin, int64_t end,
                        int64_t j, int64_t width, T* scratch) {
  const int64_t block = static_cast<int64_t>(kScratchBytes / sizeof(T)) / width / 2;
  Segment<T> local[kMaxSegments];
  Contraction<T> part = p;
  part.segments = local;
  int s = 0;
  int64_t done = 0;  // of segment s
  bool first = true;
  while (s < p.count) {
    int64_t room = block;
    part.count = 0;
    while (s < p.count && room > 0) {
      Segment<T>& to = local[part.count++] = p.segments[s];
      const int64_t left = to.k - done;
      to.a += done * to.a_col, to.b += done * to.b_row;
      to.k = left < room ? left : room;
      room -= to.k, done += to.k;
      if (done == p.segments[s].k) ++s, done = 0;
    }
    pack_panel(local, part.count, j, width, scratch);
    outer_panel(part, rows, begin, end, j, width, first, s == p.count);
    first = false;
  }
}

template <class T>
void outer_contract(const Contraction<T>& p, const Context& context) {
  constexpr int W = kWidth<T>;
  const Cut panels((p.n + W - 1) / W, kVectorTile), rows(p.m, kRowTile);
  const Share share(context, panels.parts * rows.parts);
  for (int64_t unit = share.begin; unit < share.end;) {
    const int64_t panel = unit / rows.parts, begin = unit % rows.parts;
    int64_t end = rows.parts;
    if (unit + (end - begin) > share.end) end = begin + (share.end - unit);
    const int64_t j = panels.begin(panel) * W;
    const int64_t stop = panels.begin(panel + 1) * W;
    const int64_t width = (stop < p.n ? stop : p.n) - j;
    // Packing costs a load and a store for each number of b; four row tiles or more repay it.
    // (Blocks of l leave partial sums in c, which a scaled sum in place cannot afford.)
    const bool in_place = p.scale != T(1) && p.cin == p.c;
    if (end - begin >= 4 && p.count > 0 && !in_place &&
        p.segments[0].b_row * int64_t(sizeof(T)) >= 512)
      outer_panel_packed(p, rows, begin, end, j, width, reinterpret_cast<T*>(context.scratch));
    else
      outer_panel(p, rows, begin, end, j, width, true, true);
    unit += end - begin;
  }
}

// --- inner products ------------------------------------------------------------------------------

template <class T, int MR, int NR>
void inner_tile(const Contraction<T>& p, int64_t i, int64_t j) {
  constexpr int W = kWidth<T>;
  Vec<T> acc[MR][NR] = {};
  for (int s = 0; s < p.count; ++s) {
    const Segment<T>& segment = p.segments[s];
    const T* a = segment.a + i * segment.a_row;
    const T* b = segment.b + j * segment.b_col;
    auto step = [&](auto read, int64_t l) __attribute__((always_inline)) {
      Vec<T> bv[NR];
#pragma GCC unroll 8
      for (int v = 0; v < NR; ++v) bv[v] = read(b + v * segment.b_col + l);
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) {
        const Vec<T> av = read(a + r * segment.a_row + l);
#pragma GCC unroll 8
        for (int v = 0; v < NR; ++v) acc[r][v] += av * bv[v];
      }
    };
    int64_t l = 0;
    for (; l + W <= segment.k; l += W) step([](const T* q) { return load(q); }, l);
    if (l < segment.k) {
      const Tail<T> tail(static_cast<int>(segment.k - l));
      step([&](const T* q) { return tail.load(q); }, l);
    }
  }
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NR; ++v) {
      T value = p.scale * sum<T>(acc[r][v]);
      if (p.cin) value += p.cin[(i + r) * p.cin_row + j + v];
      p.c[(i + r) * p.c_row + j + v] = value;
    }
}

template <class T, int MR>
FASTMAML_INLINE void inner_columns(const Contraction<T>& p, int64_t i, int64_t j, int64_t count) {
  switch (count) {
    case 1: return inner_tile<T, MR, 1>(p, i, j);
    case 2: return inner_tile<T, MR, 2>(p, i, j);
    case 3: return inner_tile<T, MR, 3>(p, i, j);
    default: return inner_tile<T, MR, 4>(p, i, j);
  }
}

template <class T>
void inner_contract(const Contraction<T>& p, const Context& context) {
  constexpr int kRows = kVectorBytes == 64 ? 4 : 2;  // 4 x 4 or 2 x 4 accumulators
  const Cut rows(p.m, kRows), columns(p.n, 4);
  const Share share(context, rows.parts * columns.parts);
  for (int64_t unit = share.begin; unit < share.end; ++unit) {
    const int64_t r = unit / columns.parts, c = unit % columns.parts;
    const int64_t i = rows.begin(r), j = columns.begin(c);
    const int64_t height = rows.begin(r + 1) - i, width = columns.begin(c + 1) - j;
    if (height == 1) inner_columns<T, 1>(p, i, j, width);
    if (height == 2) inner_columns<T, 2>(p, i, j, width);
    if constexpr (kRows == 4) {
      if (height == 3) inner_columns<T, 3>(p, i, j, width);
      if (height == 4) inner_columns<T, 4>(p, i, j, width);
    }
  }
}

// --- the instruction -----------------------------------------------------------------------------

template <class T>
FASTMAML_INLINE void solve(Contraction<T>& p, bool dot, const Context& context) {
  if (p.m == 0 || p.n == 0) return;
  dot ? inner_contract(p, context) : outer_contract(p, context);
}

// Reads the term for the group's task g; false while its gate is shut.
template <class T>
FASTMAML_INLINE bool read_term(const ContractTerm& term, const Context& context, int64_t g,
                               Segment<T>& out) {
  if (term.gate >= 0 && static_cast<const T*>(context.scalars)[term.gate] == T(0)) return false;
  out = {address<T>(context, term.a, g), term.a_row, term.a_col,
         address<T>(context, term.b, g), term.b_row, term.b_col, term.k};
  return true;
}

// Terms come in runs of at most kMaxSegments; later runs start from what the earlier left in c.
template <class T>
void contract_task(const ContractArgs& args, const Context& context, int64_t g, int64_t m,
                   int64_t flatten) {
  Segment<T> segments[kMaxSegments];
  Contraction<T> p;
  p.segments = segments;
  p.c = address<T>(context, args.c, g), p.c_row = args.c_row;
  p.cin = args.cin ? address<T>(context, args.cin, g) : nullptr, p.cin_row = args.cin_row;
  p.m = m, p.n = args.n;
  p.scale = static_cast<const T*>(context.scalars)[args.scale];
  p.count = 0;
  bool written = false;
  auto flush = [&] {
    solve(p, args.dot, context);
    p.cin = p.c, p.cin_row = p.c_row, p.count = 0;
    written = true;
  };
  for (const ContractTerm& term : args.terms) {
    if (p.count == kMaxSegments) flush();
    Segment<T>& segment = segments[p.count];
    if (!read_term(term, context, g, segment)) continue;
    if (flatten > 1) {
      // The sum runs over the tasks too: their rows touch, so l simply runs on.
      if (segment.k == 1) segment.a_col = term.a.stride, segment.b_row = term.b.stride;
      segment.k *= flatten;
    }
    ++p.count;
  }
  if (p.count > 0 || (!written && p.c != p.cin)) flush();
}

template <class T>
void run_kernel(const ContractArgs& args, const Context& context) {
  if (args.c.stride == 0) return contract_task<T>(args, context, 0, args.m, context.tasks);
  if (args.stack) return contract_task<T>(args, context, 0, args.m * context.tasks, 1);
  for (int64_t g = 0; g < context.tasks; ++g) contract_task<T>(args, context, g, args.m, 1);
}

}  // namespace fastmaml::FASTMAML_ISA
