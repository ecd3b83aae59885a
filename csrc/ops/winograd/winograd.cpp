#include "ops/winograd/winograd.hpp"

#include <algorithm>

#include "core/integers.hpp"
#include "ops/conv2d/conv2d.hpp"

namespace fastmaml {
namespace {

// Weights of all columns are transformed once where they fit into so much; the block of tiles then
// shares a second-level cache with what is made of it. Larger weights stream past blocks of as many
// tiles as a third-level cache holds.
constexpr int64_t kKeptBytes = int64_t{14} << 20;
constexpr int64_t kSmallBlockBytes = int64_t{512} << 10, kLargeBlockBytes = int64_t{13} << 20;
constexpr int64_t kFewestTiles = 48, kMostTiles = 192, kTileStep = 24;
// Columns of c (images); rows and columns of a block of gradients, over kFewestTiles at a time.
constexpr int64_t kPanelBytes = 256, kUnitBytes = 640;
// Weights of several blocks would take their pixels again for each. Where those of all tiles fit
// into so much of a third-level cache they are made once, and a block is a panel of few rows.
constexpr int64_t kPixelBytes = int64_t{13} << 20, kPartRows = 48;

int64_t lined(int64_t columns, int64_t bytes) {
  const int64_t line = kWinogradLine / bytes;
  return divide_up(columns, line) * line;
}

int64_t all_tiles(const ConvArgs& args) {
  return args.winograd.sheets(args.images) * args.winograd.tiles();
}

// The sheet that wastes fewest tiles; of equals the narrowest.
void set_sheet(ConvArgs& args) {
  Winograd& w = args.winograd;
  Winograd best = w;
  best.across = best.down = 1;
  int64_t fewest = args.images * best.tiles();
  for (int64_t across = 1; across <= args.images; ++across) {
    w.across = across, w.down = divide_up(args.images, across);
    if (w.tiles() < fewest) fewest = w.tiles(), best = w;
  }
  w = best;
}

int64_t terms(const ConvArgs& args) { return static_cast<int64_t>(args.terms.size()); }

// Cycles of 64-byte multiply-adds at their peak rate, fitted on Zen 4 at 32 to 640 channels to what
// whole instructions take: a vector of channels of an input tile, of an output or cotangent tile,
// of a weight, of a gradient; contractions reach 85 and 88% of the peak. (In a second-level cache
// the transforms take half as long.)
struct Cycles {
  double input, output, weight, gradient;
};
constexpr Cycles kTile2{290, 240, 190, 0}, kTile5{1150, 900, 600, 800},
    kTile6{1450, 1150, 750, 950};
constexpr double kDirectRate = 0.85, kProductRate = 0.88;

struct Vectors {
  double k, n;
  Vectors(const ConvArgs& args, int64_t bytes)
      : k(static_cast<double>(divide_up(args.k, kWinogradLine / bytes))),
        n(static_cast<double>(divide_up(args.n, kWinogradLine / bytes))) {}
};

}  // namespace

alignas(kWinogradLine) const char kWinogradZeros[8192] = {};

bool winograd_takes(const Window& window) {
  for (const Span& span : {window.y, window.x})
    if (span.kernel != 3 || span.stride != 1 || span.dilation != 1) return false;
  return true;
}

Winograd winograd_map(const Window& window, bool towards_in, int64_t tile) {
  const Span &y = window.y, &x = window.x;
  Winograd map;
  map.tile = tile, map.flipped = towards_in;
  if (towards_in) {
    map.from_h = y.out, map.from_w = x.out, map.to_h = y.in, map.to_w = x.in;
    map.pad_y = y.kernel - 1 - y.pad, map.pad_x = x.kernel - 1 - x.pad;
  } else {
    map.from_h = y.in, map.from_w = x.in, map.to_h = y.out, map.to_w = x.out;
    map.pad_y = y.pad, map.pad_x = x.pad;
  }
  return map;
}

void set_winograd_blocks(ConvArgs& args, int64_t bytes) {
  Winograd& w = args.winograd;
  set_sheet(args);
  const int64_t tile = w.points() * bytes * terms(args) * args.k;
  if (args.weights) {
    w.kept = std::max(args.k, args.n) * bytes > kUnitBytes && all_tiles(args) * tile <= kPixelBytes;
    const int64_t unit = w.kept ? kPanelBytes : kUnitBytes;
    w.tile_block = w.kept ? all_tiles(args) : std::min(kFewestTiles, all_tiles(args));
    w.columns = std::min(unit / bytes, lined(args.n, bytes));
    w.depth = std::min(w.kept ? kPartRows : unit / bytes, args.k);
    return;
  }
  w.kept = args.n * tile <= kKeptBytes;
  const int64_t fit = (w.kept ? kSmallBlockBytes : kLargeBlockBytes) / tile / kTileStep * kTileStep;
  w.tile_block = std::min(std::clamp(fit, kFewestTiles, kMostTiles), all_tiles(args));
  w.columns = std::min(kPanelBytes / bytes, lined(args.n, bytes));
}

size_t winograd_scratch_bytes(const ConvArgs& args, int64_t bytes) {
  const Winograd& w = args.winograd;
  auto planes = [&](int64_t rows, int64_t columns) {
    return w.points() * PlaneSizes(rows, columns, bytes).plane;
  };
  int64_t total = 0;
  if (args.weights)
    total +=
        (w.kept ? terms(args) * (planes(w.tile_block, args.k) + planes(w.tile_block, w.columns))
                : planes(w.tile_block, w.depth) + planes(w.tile_block, w.columns)) +
        planes(w.depth, w.columns);
  else
    total += planes(w.tile_block, w.columns) + terms(args) * planes(w.tile_block, args.k) +
             w.side() * PlaneSizes(3 * args.k, w.columns, bytes).plane +
             (w.kept ? terms(args) * divide_up(args.n, w.columns) * planes(args.k, w.columns)
                     : w.side() * PlaneSizes(args.k, w.columns, bytes).plane);
  return static_cast<size_t>(total * bytes);
}

double winograd_cycles(const ConvArgs& args, int64_t bytes) {
  const Winograd& w = args.winograd;
  const Vectors vectors(args, bytes);
  const auto tiles = static_cast<double>(all_tiles(args)), k = static_cast<double>(args.k);
  const auto both = static_cast<double>(terms(args)), points = static_cast<double>(w.points());
  const double products = both * points * tiles * k * vectors.n / kProductRate;
  const Cycles& cycles = w.tile == kForwardTile ? kTile2 : w.tile == 5 ? kTile5 : kTile6;
  if (args.weights) {
    const auto again_a = static_cast<double>(w.kept ? 1 : divide_up(args.n, w.columns));
    const auto again_b = static_cast<double>(w.kept ? 1 : divide_up(args.k, w.depth));
    return products + k * vectors.n * cycles.gradient +
           both * tiles *
               (again_a * vectors.k * cycles.input + again_b * vectors.n * cycles.output);
  }
  const auto blocks = static_cast<double>(w.kept ? 1 : divide_up(all_tiles(args), w.tile_block));
  return products + tiles * (both * vectors.k * cycles.input + vectors.n * cycles.output) +
         both * blocks * k * vectors.n * cycles.weight;
}

double direct_cycles(const ConvArgs& args, int64_t bytes) {
  const Vectors vectors(args, bytes);
  return static_cast<double>(args.stencil->pairs() * args.images * terms(args) * args.k) *
         vectors.n / kDirectRate;
}

}  // namespace fastmaml
