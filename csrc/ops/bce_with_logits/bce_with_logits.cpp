#include "ops/bce_with_logits/bce_with_logits.hpp"

#include "plan/emit.hpp"

namespace fastmaml {
namespace {

BceWithLogitsArgs bce_args(Emit& emit, const Node& loss, PassKind pass) {
  BceWithLogitsArgs args;
  args.pass = pass;
  args.n = emit.rows() * numel(loss.in_shapes[0]);
  args.weight = loss.attr("sum", 0) != 0 ? 1.0 : 1.0 / static_cast<double>(args.n);
  args.seed = emit.seed();
  args.x = emit.x(loss, 0);
  if (pass != PassKind::backward_jvp) args.t = emit.targets();
  return args;
}

}  // namespace

void BceWithLogits::forward(Emit& emit, const Node& loss) const {
  BceWithLogitsArgs args = bce_args(emit, loss, PassKind::forward);
  args.out = emit.loss();
  emit.add(args);
}

void BceWithLogits::backward(Emit& emit, const Node& loss) const {
  BceWithLogitsArgs args = bce_args(emit, loss, PassKind::backward);
  const Sink sink = emit.x_bar(loss, 0);
  args.out = sink.out, args.cin = sink.cin;
  emit.add(args);
}

void BceWithLogits::backward_jvp(Emit& emit, const Node& loss) const {
  BceWithLogitsArgs args = bce_args(emit, loss, PassKind::backward_jvp);
  const Sink sink = emit.x_bar_dot(loss, 0);
  args.x_dot = emit.x_dot(loss, 0);
  args.out = sink.out, args.cin = sink.cin;
  emit.add(args);
}

}  // namespace fastmaml
