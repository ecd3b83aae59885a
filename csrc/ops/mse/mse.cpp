#include "ops/mse/mse.hpp"

#include "plan/emit.hpp"

namespace fastmaml {
namespace {

MseArgs mse_args(Emit& emit, const Node& loss, PassKind pass) {
  MseArgs args;
  args.pass = pass;
  args.n = emit.rows() * numel(loss.in_shapes[0]);
  args.weight = loss.attr("sum", 0) != 0 ? 1.0 : 1.0 / static_cast<double>(args.n);
  args.seed = emit.seed();
  if (pass != PassKind::backward_jvp) args.x = emit.x(loss, 0), args.t = emit.targets();
  return args;
}

}  // namespace

void Mse::forward(Emit& emit, const Node& loss) const {
  MseArgs args = mse_args(emit, loss, PassKind::forward);
  args.out = emit.loss();
  emit.add(args);
}

void Mse::backward(Emit& emit, const Node& loss) const {
  MseArgs args = mse_args(emit, loss, PassKind::backward);
  const Sink sink = emit.x_bar(loss, 0);
  args.out = sink.out, args.cin = sink.cin;
  emit.add(args);
}

void Mse::backward_jvp(Emit& emit, const Node& loss) const {
  MseArgs args = mse_args(emit, loss, PassKind::backward_jvp);
  const Sink sink = emit.x_bar_dot(loss, 0);
  args.x_dot = emit.x_dot(loss, 0);
  args.out = sink.out, args.cin = sink.cin;
  emit.add(args);
}

}  // namespace fastmaml
