#include "ops/cross_entropy/cross_entropy.hpp"

#include "core/error.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

void check_row(const Node& loss) {
  const Shape& row = loss.in_shapes.at(0);
  if (row.size() != 1 || row[0] < 1)
    throw UnsupportedModelError(
        message("loss `cross_entropy`: the network must give one row of class scores per row of x "
                "(a row shape of 1 dimension), got a row shape of ",
                row.size(), " dimensions; flatten the output or use backend=\"reference\""));
}

CrossEntropyArgs cross_entropy_args(Emit& emit, const Node& loss, PassKind pass) {
  check_row(loss);
  CrossEntropyArgs args;
  args.pass = pass;
  args.rows = emit.rows(), args.classes = loss.in_shapes[0][0];
  args.weight = loss.attr("sum", 0) != 0 ? 1.0 : 1.0 / static_cast<double>(args.rows);
  args.smoothing = loss.attr("label_smoothing", 0);
  args.seed = emit.seed();
  if (pass != PassKind::backward_jvp) args.c = emit.targets();
  if (pass != PassKind::forward) args.p = emit.saved(loss, 0, args.rows * args.classes);
  return args;
}

}  // namespace

void CrossEntropy::forward(Emit& emit, const Node& loss) const {
  CrossEntropyArgs args = cross_entropy_args(emit, loss, PassKind::forward);
  args.x = emit.x(loss, 0);
  args.out = emit.loss();
  emit.add(args);
}

void CrossEntropy::backward(Emit& emit, const Node& loss) const {
  CrossEntropyArgs args = cross_entropy_args(emit, loss, PassKind::backward);
  const Sink sink = emit.x_bar(loss, 0);
  args.x = emit.x(loss, 0);
  args.out = sink.out, args.cin = sink.cin;
  emit.add(args);
}

void CrossEntropy::backward_jvp(Emit& emit, const Node& loss) const {
  CrossEntropyArgs args = cross_entropy_args(emit, loss, PassKind::backward_jvp);
  const Sink sink = emit.x_bar_dot(loss, 0);
  args.x_dot = emit.x_dot(loss, 0);
  args.out = sink.out, args.cin = sink.cin;
  emit.add(args);
}

}  // namespace fastmaml
