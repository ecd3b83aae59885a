#include "ops/registry.hpp"

#include <map>
#include <memory>

#include "ops/add/add.hpp"
#include "ops/batch_norm/batch_norm.hpp"
#include "ops/bce_with_logits/bce_with_logits.hpp"
#include "ops/centre/centre.hpp"
#include "ops/concat/concat.hpp"
#include "ops/conv2d/conv2d.hpp"
#include "ops/cross_entropy/cross_entropy.hpp"
#include "ops/group_norm/group_norm.hpp"
#include "ops/linear/linear.hpp"
#include "ops/mse/mse.hpp"
#include "ops/patches/patches.hpp"
#include "ops/permute/permute.hpp"
#include "ops/pointwise/pointwise.hpp"
#include "ops/pool2d/pool2d.hpp"
#include "ops/stem/stem.hpp"

namespace fastmaml {
namespace {

template <class Base>
using Table = std::map<std::string, std::unique_ptr<const Base>>;

const Table<Op>& ops() {
  static const Table<Op> table = [] {
    Table<Op> t;
    t["adaptive_avg_pool2d"] = std::make_unique<Pool2d>(PoolKind::adaptive_avg);
    t["add"] = std::make_unique<Add>();
    t["avg_pool2d"] = std::make_unique<Pool2d>(PoolKind::avg);
    t["batch_norm"] = std::make_unique<BatchNorm>();
    t["centre"] = std::make_unique<Centre>();
    t["concat"] = std::make_unique<Concat>();
    t["conv2d"] = std::make_unique<Conv2d>();
    t["linear"] = std::make_unique<Linear>();
    t["elu"] = std::make_unique<Pointwise>(PointwiseKind::elu);
    t["gelu"] = std::make_unique<Pointwise>(PointwiseKind::gelu);
    t["group_norm"] = std::make_unique<GroupNorm>(NormOver::groups);
    t["layer_norm"] = std::make_unique<GroupNorm>(NormOver::last_dims);
    t["leaky_relu"] = std::make_unique<Pointwise>(PointwiseKind::leaky_relu);
    t["max_pool2d"] = std::make_unique<Pool2d>(PoolKind::max);
    t["patches"] = std::make_unique<Patches>();
    t["permute"] = std::make_unique<Permute>();
    t["relu"] = std::make_unique<Pointwise>(PointwiseKind::relu);
    t["sigmoid"] = std::make_unique<Pointwise>(PointwiseKind::sigmoid);
    t["silu"] = std::make_unique<Pointwise>(PointwiseKind::silu);
    t["stem"] = std::make_unique<Stem>();
    t["softplus"] = std::make_unique<Pointwise>(PointwiseKind::softplus);
    t["tanh"] = std::make_unique<Pointwise>(PointwiseKind::tanh);
    return t;
  }();
  return table;
}

const Table<LossOp>& losses() {
  static const Table<LossOp> table = [] {
    Table<LossOp> t;
    t["bce_with_logits"] = std::make_unique<BceWithLogits>();
    t["cross_entropy"] = std::make_unique<CrossEntropy>();
    t["mse"] = std::make_unique<Mse>();
    return t;
  }();
  return table;
}

template <class Base>
const Base* find(const Table<Base>& table, const std::string& name) {
  auto found = table.find(name);
  return found == table.end() ? nullptr : found->second.get();
}

}  // namespace

const Op* find_op(const std::string& name) { return find(ops(), name); }
const LossOp* find_loss(const std::string& name) { return find(losses(), name); }

}  // namespace fastmaml
