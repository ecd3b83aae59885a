#include "ops/centre/centre.hpp"

#include "ops/pool2d/pool2d.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

// All rows as the pixels of one image, of which an average pool leaves one: less their mean.
PoolMap less_mean(int64_t rows) {
  const Ranges all{{0, rows}}, one{{0, 1}};
  PoolMap map;
  map.gather = gather(all, one, rows, 1);
  map.weights = {-1 / static_cast<double>(rows)};
  return map;
}

}  // namespace

void Centre::forward(Emit& emit, const Node& node) const {
  const int64_t rows = emit.rows(), n = numel(node.shape);
  PoolArgs mean;
  mean.step = PoolStep::gather_avg;
  mean.map = emit.once(node, static_cast<int>(rows), [&] { return less_mean(rows); });
  mean.images = 1, mean.channels = n;
  mean.in = emit.x(node, 0), mean.out = emit.scratch(n);
  ContractArgs sum;
  sum.m = rows, sum.n = sum.c_row = sum.cin_row = n;
  sum.c = emit.y(node), sum.cin = mean.in;
  sum.terms = {{Operand{kScalars}, 0, 0, mean.out, n, 1, 1}};
  emit.add(std::move(mean));
  emit.add(std::move(sum));
}

}  // namespace fastmaml
