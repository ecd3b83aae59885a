// The convolution on one core: an instruction's tasks and groups, each one problem.
//
// Register tiles find their rows through the stencil: nothing is padded or copied. Every sum runs
// in an order that depends neither on the tile nor on the thread.
#pragma once

#include "ops/conv2d/conv2d_images_cpu.hpp"
#include "ops/conv2d/conv2d_weights_cpu.hpp"
#include "ops/winograd/winograd_forms_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

template <class T>
ConvProblem<T> conv_problem(const ConvArgs& args, const Context& context, int64_t task,
                            int64_t group) {
  const Stencil& stencil = *args.stencil;
  const int64_t k = args.k, n = args.n, weights = stencil.taps * k * n;
  ConvProblem<T> p;
  p.stencil = &stencil;
  p.terms = static_cast<int>(args.terms.size());
  for (int t = 0; t < p.terms; ++t) {
    p.a[t] = address<T>(context, args.terms[t].a, task) + group * k;
    p.b[t] =
        address<T>(context, args.terms[t].b, task) + (args.weights ? group * n : group * weights);
  }
  p.k = k, p.n = n, p.images = args.images;
  p.a_pixel = args.groups * k, p.a_image = stencil.from_pixels * p.a_pixel;
  p.b_pixel = args.groups * n, p.b_image = stencil.to_pixels * p.b_pixel;
  const int64_t shift = args.weights ? group * weights : group * n;
  p.c = address<T>(context, args.c, task) + shift;
  p.cin = args.cin ? address<T>(context, args.cin, task) + shift : nullptr;
  p.c_row = args.groups * n, p.c_image = stencil.to_pixels * p.c_row;
  p.cin_row = args.cin_row ? 0 : p.c_row;
  p.moments = args.moments ? address<T>(context, args.moments, task) + shift : nullptr;
  p.moment_groups = args.moment_groups;
  p.scale = static_cast<const T*>(context.scalars)[args.scale];
  return p;
}

template <class T>
void run_kernel(const ConvArgs& args, const Context& context) {
  const ConvPanels<T> panels(args.n);
  const bool phased = context.phase >= 0;
  const int64_t first = phased ? context.phase / args.phases() : 0;
  for (int64_t task = first; task < (phased ? first + 1 : context.tasks); ++task)
    for (int64_t group = 0; group < args.groups; ++group) {
      const ConvProblem<T> p = conv_problem<T>(args, context, task, group);
      if (args.winograd)
        winograd(p, args, context);
      else if (args.weights)
        conv_weights(p, panels, context);
      else
        conv_images(p, panels, context);
    }
}

}  // namespace fastmaml::FASTMAML_ISA
