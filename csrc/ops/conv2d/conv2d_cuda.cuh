// The convolution on the device: tiles whose rows find their pixels through tables, group by group.
//
//   images:   rows (image, to pixel)     depth (tap, channel)       b: the packed weight as it lies
//   weights:  rows (tap, channel)        depth (image, to pixel)    b: images as they lie
//
// Groups of a channel or two have outputs that are summed one by one.
#pragma once

#include "cuda/tiles.cuh"
#include "ops/conv2d/conv2d_device.hpp"
#include "ops/conv2d/conv2d_direct_cuda.cuh"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<DeviceConvArgs> = {128, 208};

template <class T>
FASTMAML_DEVICE bool on_wide(const T* p) {
  return reinterpret_cast<uint64_t>(p) % 16 == 0;
}

// One part of the pixels, of one task and one group.
template <class T>
struct ConvImages {
  struct Segment {
    const T *a, *b;
    int32_t k;
    bool a_wide, b_wide;
  };
  struct Row {
    int32_t first, pixel;  // the image's first source pixel; the place in the part
  };
  struct Depth {
    int32_t place, channel;  // the row of the table of sources
  };
  using Spot = int32_t;  // in the images, -1 outside of them
  static constexpr bool kDeep = true;

  const DeviceConvArgs& args;
  const Block& block;
  const ConvPart part;
  int64_t task;
  int32_t m, n;
  int32_t group, a_pixel;
  const int32_t* sources;

  FASTMAML_DEVICE ConvImages(const DeviceConvArgs& c, const Block& b, int64_t t, const ConvPart& p,
                             int32_t g)
      : args(c), block(b), part(p), task(t), m(c.images * p.pixels), n(c.n), group(g) {
    a_pixel = args.groups * args.k;
    sources = block.table<int32_t>(part.sources);
  }
  FASTMAML_DEVICE int segments() const { return args.terms; }
  FASTMAML_DEVICE void open(int s, Segment& to) const {
    to.a = address<T>(block, args.term[s].a, task) + group * args.k;
    to.b = address<T>(block, args.term[s].b, task) + int64_t{group} * args.taps * args.k * args.n;
    to.k = part.taps * args.k;
    to.a_wide = args.k % kWide<T> == 0 && on_wide(to.a);
    to.b_wide = args.n % kWide<T> == 0 && on_wide(to.b);
  }
  FASTMAML_DEVICE Row row(const Segment&, int32_t at) const {
    const int32_t image = part.by_pixels.quotient(at);
    return {image * args.from_pixels, part.by_pixels.remainder(at, image)};
  }
  FASTMAML_DEVICE Depth depth(const Segment&, int32_t at) const {
    const int32_t place = args.by_k.quotient(at);
    return {place * part.pixels, args.by_k.remainder(at, place)};
  }
  FASTMAML_DEVICE Spot spot(const Segment&, Row row, Depth depth) const {
    const int32_t source = sources[depth.place + row.pixel];
    return source < 0 ? source : (row.first + source) * a_pixel + depth.channel;
  }
  FASTMAML_DEVICE bool there(const Segment&, Spot spot) const { return spot >= 0; }
  FASTMAML_DEVICE const T* a(const Segment& s, Spot spot) const {
    return s.a + (spot < 0 ? 0 : spot);
  }
  FASTMAML_DEVICE const T* b(const Segment& s, int32_t l, int32_t j) const {
    int32_t at = l;
    if (!part.all_taps) {
      const int32_t place = args.by_k.quotient(at);
      at = block.table<int32_t>(part.tap)[place] * args.k + args.by_k.remainder(at, place);
    }
    return s.b + (int64_t{at} * args.n + j);
  }
};

// c = cin + sum of one part and group. Its moments are those of tiles: there is one part then.
template <class T>
struct ConvImagesOut {
  const ConvImages<T>& problem;
  const int32_t* to;
  T* c;
  const T* cin;

  FASTMAML_DEVICE explicit ConvImagesOut(const ConvImages<T>& p) : problem(p) {
    const DeviceConvArgs& args = p.args;
    const int32_t shift = p.group * args.n;
    to = p.block.template table<int32_t>(p.part.to);
    c = address<T>(p.block, args.c, p.task) + shift;
    cin = args.cin ? address<T>(p.block, args.cin, p.task) + shift : nullptr;
  }
  FASTMAML_DEVICE int64_t row(int32_t at) const {
    const DeviceConvArgs& args = problem.args;
    const int32_t image = problem.part.by_pixels.quotient(at);
    const int32_t pixel = to[problem.part.by_pixels.remainder(at, image)];
    return (int64_t{image} * args.to_pixels + pixel) * (args.groups * args.n);
  }
  // See kLeavesMoments. Found when they are wanted: no register holds them while a tile is summed.
  FASTMAML_DEVICE T* moments() const {
    T* to = address_or_null<T>(problem.block, problem.args.moments, problem.task);
    return to ? to + problem.group * problem.args.n : nullptr;
  }
  FASTMAML_DEVICE int64_t features() const { return problem.args.groups * problem.args.n; }
  FASTMAML_DEVICE T operator()(int64_t row, int64_t j, T sum) const {
    return c[row + j] = cin ? cin[(problem.args.cin_row ? 0 : row) + j] + sum : sum;
  }
};

// The weight of one task and one group, over one run of pixels. There is one part, with all taps.
template <class T>
struct ConvWeights {
  struct Segment {
    const T *a, *b;
    int32_t k;
    bool a_wide, b_wide;
  };
  struct Row {
    int32_t place, channel;
  };
  struct Depth {
    int32_t first, pixel;
  };
  using Spot = int32_t;  // in the images, -1 outside of them
  static constexpr bool kDeep = false;

  const DeviceConvArgs& args;
  const Block& block;
  const ConvPart part;
  int64_t task;
  int32_t m, n;
  int32_t group, run, a_pixel, b_pixel;
  const int32_t* sources;

  FASTMAML_DEVICE ConvWeights(const DeviceConvArgs& c, const Block& b, int64_t t, const ConvPart& p,
                              int32_t g, int32_t r)
      : args(c), block(b), part(p), task(t), m(c.taps * c.k), n(c.n), group(g), run(r) {
    a_pixel = args.groups * args.k, b_pixel = args.groups * args.n;
    sources = block.table<int32_t>(part.sources);
  }
  FASTMAML_DEVICE int segments() const { return args.terms; }
  FASTMAML_DEVICE void open(int s, Segment& to) const {
    to.a = address<T>(block, args.term[s].a, task) + group * args.k;
    to.b = address<T>(block, args.term[s].b, task) + group * args.n +
           int64_t{run} * args.run * b_pixel;
    const int32_t left = args.images * args.to_pixels - run * args.run;
    to.k = left < args.run ? left : args.run;
    to.a_wide = args.k % kWide<T> == 0 && on_wide(to.a);
    to.b_wide = args.n % kWide<T> == 0 && on_wide(to.b);
  }
  FASTMAML_DEVICE Row row(const Segment&, int32_t at) const {
    const int32_t tap = args.by_k.quotient(at);
    return {tap * part.pixels, args.by_k.remainder(at, tap)};
  }
  FASTMAML_DEVICE Depth depth(const Segment&, int32_t l) const {
    const int32_t at = l + run * args.run;
    const int32_t image = part.by_pixels.quotient(at);
    return {image * args.from_pixels, part.by_pixels.remainder(at, image)};
  }
  FASTMAML_DEVICE Spot spot(const Segment&, Row row, Depth depth) const {
    const int32_t source = sources[row.place + depth.pixel];
    return source < 0 ? source : (depth.first + source) * a_pixel + row.channel;
  }
  FASTMAML_DEVICE bool there(const Segment&, Spot spot) const { return spot >= 0; }
  FASTMAML_DEVICE const T* a(const Segment& s, Spot spot) const {
    return s.a + (spot < 0 ? 0 : spot);
  }
  FASTMAML_DEVICE const T* b(const Segment& s, int32_t l, int32_t j) const {
    return s.b + (l * b_pixel + j);
  }
};

// c = cin + scale sum of one group.
template <class T>
struct ConvWeightsOut {
  int64_t n;
  T scale;
  T* c;
  const T* cin;

  FASTMAML_DEVICE explicit ConvWeightsOut(const ConvWeights<T>& p)
      : n(p.n), scale(p.block.template scalar<T>(p.args.scale)) {
    const int64_t shift = (int64_t{p.run} * p.args.groups + p.group) * p.m * p.n;
    c = address<T>(p.block, p.args.c, p.task) + shift;
    cin = p.args.cin ? address<T>(p.block, p.args.cin, p.task) + shift : nullptr;
  }
  FASTMAML_DEVICE int64_t row(int64_t i) const { return i * n; }
  FASTMAML_DEVICE void operator()(int64_t row, int64_t j, T sum) const {
    const T value = sum * scale;
    c[row + j] = cin ? cin[row + j] + value : value;
  }
};

template <class T, class Tiles = FmaTiles<T>>
FASTMAML_DEVICE void run_pass(const DeviceConvArgs& args, const Block& block, int64_t task) {
  // Of the kernels that split the depth, most have one form.
  constexpr DepthSplit kOf = kSplit<Tiles>;
  if constexpr (kOf == DepthSplit::none) {
    if (args.form == ConvForm::images_direct) return conv_images_direct<T>(args, block, task);
    if (args.form == ConvForm::weights_direct) return conv_weights_direct<T>(args, block, task);
  }
  const ConvPart* parts = block.table<ConvPart>(args.part);
  const int64_t rows = int64_t{args.images} * args.to_pixels;
  auto turn = static_cast<int32_t>(block.rank);
  for (int32_t group = 0; group < args.groups; ++group) {
    if (args.form == ConvForm::weights) {
      if constexpr (kOf != DepthSplit::high && kOf != DepthSplit::narrow)
        for (int32_t run = 0; run < args.splits; ++run) {
          const ConvWeights<T> problem(args, block, task, parts[0], group, run);
          contract<Tiles, ConvWeightsOut<T>>(problem, block, problem.m, turn);
        }
      continue;
    }
    if constexpr (kOf != DepthSplit::weights)
      for (int32_t p = 0; p < args.parts; ++p) {
        const ConvImages<T> problem(args, block, task, parts[p], group);
        contract<Tiles, ConvImagesOut<T>>(problem, block, rows, turn);
      }
  }
}

inline int64_t units(const DeviceConvArgs& args) {
  const int64_t pixels = int64_t{args.images} * args.to_pixels;
  const int64_t weights = int64_t{args.taps} * args.k;
  switch (args.form) {
    case ConvForm::images:  // every part may end in a tile that is not full
      return args.groups * (tile_count(pixels, args.n) + args.parts - 1);
    case ConvForm::weights:
      return int64_t{args.groups} * args.splits * tile_count(weights, args.n);
    case ConvForm::images_direct:
      return (pixels * args.groups * args.n + kThreads - 1) / kThreads;
    case ConvForm::weights_direct:
      break;
  }
  return weights * args.n * ((args.groups + kConvGroups - 1) / kConvGroups);
}

}  // namespace fastmaml::device
