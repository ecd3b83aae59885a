// Convolutions of thin groups on the device: outputs summed one by one, neighbours of which lie in
// neighbouring groups, so that channels are read along memory.
#pragma once

#include "cuda/device.cuh"
#include "ops/conv2d/conv2d_device.hpp"

namespace fastmaml::device {

// Multiply-adds in chains that are then added up.
template <class T>
struct ChainedSum {
  static constexpr int kChain = 256;
  T total = 0, chain = 0;
  int count = 0;
  FASTMAML_DEVICE void add(T a, T b) {
    chain = multiply_add(a, b, chain);
    if (++count % kChain == 0) total += chain, chain = T(0);
  }
  FASTMAML_DEVICE T sum() const { return total + chain; }
};

// Output channel `j` of `group`, of one pixel of one image.
template <class T>
FASTMAML_DEVICE T conv_pixel_sum(const DeviceConvArgs& args, const Block& block, int64_t task,
                                 int32_t image, int32_t pixel, int32_t group, int32_t j) {
  const ConvPart& part = *block.table<ConvPart>(args.part);
  const int32_t* sources = block.table<int32_t>(part.sources) + pixel;
  const int32_t a_pixel = args.groups * args.k, weight = args.taps * args.k * args.n;
  ChainedSum<T> sum;
  for (int32_t t = 0; t < args.terms; ++t) {
    const T* a = address<T>(block, args.term[t].a, task) + group * args.k;
    const T* b = address<T>(block, args.term[t].b, task) + (int64_t{group} * weight + j);
    for (int32_t tap = 0; tap < args.taps; ++tap) {
      const int32_t source = sources[tap * part.pixels];
      if (source < 0) continue;
      const T* from = a + (image * args.from_pixels + source) * a_pixel;
      for (int32_t l = 0; l < args.k; ++l) sum.add(from[l], b[(tap * args.k + l) * args.n]);
    }
  }
  return sum.sum();
}

template <class T>
FASTMAML_DEVICE void conv_images_direct(const DeviceConvArgs& args, const Block& block,
                                        int64_t task) {
  const ConvPart& part = *block.table<ConvPart>(args.part);
  const int32_t channels = args.groups * args.n;
  const int64_t total = int64_t{args.images} * args.to_pixels * channels;
  const T* cin = address_or_null<T>(block, args.cin, task);
  T* c = address<T>(block, args.c, task);
  for (int64_t i = block.first_thread(); i < total; i += block.all_threads()) {
    const auto at = static_cast<int32_t>(i);
    const int32_t row = args.by_channels.quotient(at), image = part.by_pixels.quotient(row);
    const int32_t channel = args.by_channels.remainder(at, row);
    const int32_t group = args.by_n.quotient(channel);
    const T sum = conv_pixel_sum<T>(args, block, task, image, part.by_pixels.remainder(row, image),
                                    group, args.by_n.remainder(channel, group));
    c[i] = cin ? cin[args.cin_row ? channel : i] + sum : sum;
  }
}

// Weight [tap, l, j] of `group`: this lane's pixels of all images.
template <class T>
FASTMAML_DEVICE T conv_weight_sum(const DeviceConvArgs& args, const Block& block, int64_t task,
                                  int32_t group, int32_t weight, int32_t lane) {
  const ConvPart& part = *block.table<ConvPart>(args.part);
  const int32_t row = args.by_n.quotient(weight), j = args.by_n.remainder(weight, row);
  const int32_t tap = args.by_k.quotient(row), l = args.by_k.remainder(row, tap);
  const int32_t* sources = block.table<int32_t>(part.sources) + tap * part.pixels;
  const int32_t a_pixel = args.groups * args.k, b_pixel = args.groups * args.n;
  const int32_t depth = args.images * args.to_pixels;
  ChainedSum<T> sum;
  for (int32_t t = 0; t < args.terms; ++t) {
    const T* a = address<T>(block, args.term[t].a, task) + (group * args.k + l);
    const T* b = address<T>(block, args.term[t].b, task) + (group * args.n + j);
    for (int32_t at = lane; at < depth; at += kConvLanes) {
      const int32_t image = part.by_pixels.quotient(at);
      const int32_t source = sources[part.by_pixels.remainder(at, image)];
      if (source >= 0) sum.add(a[(image * args.from_pixels + source) * a_pixel], b[at * b_pixel]);
    }
  }
  return sum.sum();
}

template <class T>
FASTMAML_DEVICE void conv_weights_direct(const DeviceConvArgs& args, const Block& block,
                                         int64_t task) {
  static_assert(kConvLanes * kConvGroups == kThreads);
  const int32_t place = threadIdx.x % kConvGroups, lane = threadIdx.x / kConvGroups;
  const int32_t weights = args.taps * args.k * args.n;
  const int64_t units = int64_t{weights} * ((args.groups + kConvGroups - 1) / kConvGroups);
  const T scale = block.scalar<T>(args.scale);
  const T* cin = address_or_null<T>(block, args.cin, task);
  T* c = address<T>(block, args.c, task);
  Carve carve(block);
  T* sums = carve.take<T>(kThreads);
  for (int64_t unit = block.rank; unit < units; unit += block.size) {
    const auto weight = static_cast<int32_t>(unit % weights);
    const int32_t group = static_cast<int32_t>(unit / weights) * kConvGroups + place;
    T sum = 0;
    if (group < args.groups) sum = conv_weight_sum<T>(args, block, task, group, weight, lane);
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (lane == 0 && group < args.groups) {
      for (int32_t other = 1; other < kConvLanes; ++other) sum += sums[other * kConvGroups + place];
      const int64_t at = int64_t{group} * weights + weight;
      c[at] = cin ? cin[at] + sum * scale : sum * scale;
    }
    __syncthreads();
  }
}

}  // namespace fastmaml::device
