// permute on the CPU: row by row of the last dimension.
#pragma once

#include "cpu/context.hpp"
#include "cpu/lanes.hpp"
#include "ops/permute/permute.hpp"

namespace fastmaml::FASTMAML_ISA {

template <class T>
void run_kernel(const PermuteArgs& args, const Context& context) {
  const int64_t *n = args.size, *s = args.stride;
  const int64_t rows = n[0] * n[1] * n[2];
  // A shared output is made once, not once for each task of the group.
  const int64_t tasks = args.out.stride == 0 ? 1 : context.tasks;
  const Share share(context, rows);
  for (int64_t task = 0; task < tasks; ++task) {
    const T* in = address<T>(context, args.in, task);
    const T* cin = address_or_null<T>(context, args.cin, task);
    T* out = address<T>(context, args.out, task);
    for (int64_t row = share.begin; row < share.end; ++row) {
      const int64_t i2 = row % n[2], rest = row / n[2];
      const T* from = in + (rest / n[1]) * s[0] + (rest % n[1]) * s[1] + i2 * s[2];
      T* to = out + row * n[3];
      if (cin)  // which may be out itself
        for (int64_t i = 0; i < n[3]; ++i) to[i] = cin[row * n[3] + i] + from[i * s[3]];
      else
        for (int64_t i = 0; i < n[3]; ++i) to[i] = from[i * s[3]];
    }
  }
}

}  // namespace fastmaml::FASTMAML_ISA
