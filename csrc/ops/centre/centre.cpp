#include "ops/centre/centre.hpp"

#include "plan/emit.hpp"

namespace fastmaml {

void Centre::forward(Emit& emit, const Node& node) const {
  const int64_t rows = emit.rows(), n = numel(node.shape);
  ContractArgs mean;  // less it
  mean.m = 1, mean.n = mean.c_row = n;
  mean.c = emit.scratch(n), mean.scale = emit.share();
  mean.terms = {{Operand{kScalars}, 0, 0, emit.x(node, 0), n, 1, rows}};
  ContractArgs sum;
  sum.m = rows, sum.n = sum.c_row = sum.cin_row = n;
  sum.c = emit.y(node), sum.cin = emit.x(node, 0);
  sum.terms = {{Operand{kScalars}, 0, 0, mean.c, n, 1, 1}};
  emit.add(std::move(mean));
  emit.add(std::move(sum));
}

}  // namespace fastmaml
