// Pools on the device: a thread a number that is written.
#pragma once

#include "cuda/scalar.cuh"
#include "ops/long_sum.hpp"
#include "ops/pool2d/pool2d_device.hpp"

namespace fastmaml::device {

template <>
inline constexpr RegisterBudget kRegisterBudget<DevicePoolArgs> = {40, 48};

// One task's operands and tables.
template <class T>
struct PoolMemory {
  const DevicePoolArgs& args;
  const int32_t *sources, *taps;
  const T* weights;
  const T *in, *cin;
  T *tap, *out;

  FASTMAML_DEVICE PoolMemory(const DevicePoolArgs& a, const Block& block, int64_t task)
      : args(a),
        sources(block.table<int32_t>(a.sources)),
        taps(block.table<int32_t>(a.taps)),
        weights(block.table<T>(sizeof(T) == sizeof(float) ? a.weights_f32 : a.weights_f64)),
        in(address<T>(block, a.in, task)),
        cin(address_or_null<T>(block, a.cin, task)),
        tap(address_or_null<T>(block, a.tap, task)),
        out(address<T>(block, a.out, task)) {}

  // Number i of the output: pixel `to` of its image, and its channel in the image's first source.
  struct Number {
    int32_t i, to, first;
  };
  FASTMAML_DEVICE Number number(int64_t at) const {
    const auto i = static_cast<int32_t>(at);
    const int32_t row = args.by_channels.quotient(i), image = args.by_pixels.quotient(row);
    return {i, args.by_pixels.remainder(row, image),
            image * args.from_pixels * args.channels + args.by_channels.remainder(i, row)};
  }

  // visit(where the source's number lies, source, tap) in the order of the taps.
  template <class Visit>
  FASTMAML_DEVICE void each(const Number& number, Visit&& visit) const {
    for (int32_t place = 0; place < args.places; ++place) {
      const int32_t at = place * args.to_pixels + number.to, source = sources[at];
      if (source < 0) return;
      visit(number.first + source * args.channels, source, static_cast<T>(taps[at]));
    }
  }

  // The sum of term(where the source's number lies, source, tap).
  template <class Term>
  FASTMAML_DEVICE T sum(const Number& number, Term&& term) const {
    LongSum<T> all;
    T chain = 0;
    const int32_t most = args.places > kChain ? kShortChain : kChain;
    int32_t room = most;
    each(number, [&](int32_t at, int32_t source, T t) {
      if (room-- == 0) all.add(chain), chain = 0, room = most - 1;
      chain += term(at, source, t);
    });
    all.add(chain);
    return all.value();
  }

  FASTMAML_DEVICE T find_max(const Number& number) const {
    T best = 0, best_tap = 0;
    bool first = true;
    each(number, [&](int32_t at, int32_t, T t) {
      const T value = in[at];
      // Written so that a NaN is taken, and kept unless another follows.
      if (first || value > best || value != value) best = value, best_tap = t;
      first = false;
    });
    tap[number.i] = best_tap;
    return best;
  }
  FASTMAML_DEVICE T gather_max(const Number& number) const {
    const T chosen = tap[number.i];
    T total = 0;
    each(number, [&](int32_t at, int32_t, T t) { total += chosen == t ? in[at] : T(0); });
    return total;
  }
  FASTMAML_DEVICE T scatter_max(const Number& number) const {
    return sum(number, [&](int32_t at, int32_t, T t) { return tap[at] == t ? in[at] : T(0); });
  }
  FASTMAML_DEVICE T gather_avg(const Number& number) const {
    return sum(number, [&](int32_t at, int32_t, T) { return in[at]; }) * weights[number.to];
  }
  FASTMAML_DEVICE T scatter_avg(const Number& number) const {
    return sum(number, [&](int32_t at, int32_t source, T) { return in[at] * weights[source]; });
  }

  FASTMAML_DEVICE T value(const Number& number) const {
    switch (args.step) {
      case PoolStep::find_max:
        return find_max(number);
      case PoolStep::gather_max:
        return gather_max(number);
      case PoolStep::scatter_max:
        return scatter_max(number);
      case PoolStep::gather_avg:
        return gather_avg(number);
      case PoolStep::scatter_avg:
        break;
    }
    return scatter_avg(number);
  }
};

template <class T>
FASTMAML_DEVICE void run_pass(const DevicePoolArgs& args, const Block& block, int64_t task) {
  const PoolMemory<T> m(args, block, task);
  const int64_t total = int64_t{args.images} * args.to_pixels * args.channels;
  for (int64_t i = block.first_thread(); i < total; i += block.all_threads()) {
    const T value = m.value(m.number(i));
    m.out[i] = m.cin ? m.cin[i] + value : value;
  }
}

inline int64_t units(const DevicePoolArgs& args) {
  return (int64_t{args.images} * args.to_pixels * args.channels + kThreads - 1) / kThreads;
}

}  // namespace fastmaml::device
