#include "plan/rewrite.hpp"

#include <algorithm>

#include "ops/patches/patches.hpp"
#include "ops/registry.hpp"

namespace fastmaml {
namespace {

// The only reader of a value, or null where it has several or is the network's output.
Node* only_reader(Network& network, const Readers& readers, int value) {
  if (value == network.output || readers[value].size() != 1) return nullptr;
  return &network.nodes[readers[value][0]];
}

bool is_max_pool(const Node* node) { return node && node->op_name == "max_pool2d"; }

// A tap is kept in a signed byte.
constexpr double kMostTaps = 127;

bool windows_touch(const Node& pool) {
  if (pool.attr("kernel_h", 1) * pool.attr("kernel_w", 1) > kMostTaps) return false;
  const Shape &in = pool.in_shapes[0], &out = pool.shape;
  int side = 1;
  for (const char* suffix : {"h", "w"}) {
    auto attr = [&](const char* name, double otherwise) {
      return static_cast<int64_t>(pool.attr(std::string(name) + suffix, otherwise));
    };
    const int64_t kernel = attr("kernel_", 1);
    if (attr("stride_", 1) != kernel || attr("pad_", 0) != 0 || attr("dilation_", 1) != 1)
      return false;
    if (out[side] * kernel > in[side]) return false;
    ++side;
  }
  return true;
}

void drop_gone(Network& network) {
  auto gone = [](const Node& node) { return node.op == nullptr; };
  network.nodes.erase(std::remove_if(network.nodes.begin(), network.nodes.end(), gone),
                      network.nodes.end());
}

// Whether the moments of the convolution's patches are worth more than its output's. A reshape that
// moves no number is not a node of its own: the shapes tell.
bool is_stem(const Network& network, const Node& conv, const Node* norm) {
  if (!norm || norm->op_name != "batch_norm" || norm->attr("kernel_h", 0) == 0) return false;
  if (norm->in_shapes[0] != conv.shape) return false;
  if (norm->attr("batch_stats", 1) == 0 || conv.attr("groups", 1) != 1) return false;
  // It gives no x_bar, and its tangents are of a weight that moves.
  if (network.learns[conv.inputs[0]] || !network.tensors[conv.params[0]].adapted) return false;
  const Shape& weight = network.tensors[conv.params[0]].shape;
  const int64_t patch = weight[1] * weight[2] * weight[3];
  return patch <= std::min(kMostPatch, 2 * weight[0]) && conv.shape[1] * conv.shape[2] > 1;
}

int param(const Node& node, size_t i) { return node.has_param(i) ? node.params[i] : -1; }

}  // namespace

void pool_before_relu(Network& network) {
  const Readers readers = readers_of(network);
  for (Node& relu : network.nodes) {
    if (relu.op_name != "relu") continue;
    Node* pool = only_reader(network, readers, relu.output);
    if (!is_max_pool(pool)) continue;
    std::swap(relu, *pool);
    Node &first = relu, &second = *pool;
    std::swap(first.inputs, second.inputs);
    std::swap(first.output, second.output);
    second.in_shapes = {first.shape}, second.shape = first.shape;
    network.value_shapes[first.output] = first.shape;
  }
}

void fuse_pool_into_norm(Network& network) {
  const Readers readers = readers_of(network);
  for (Node& norm : network.nodes) {
    if (norm.op_name != "batch_norm") continue;
    Node* pool = only_reader(network, readers, norm.output);
    if (!is_max_pool(pool) || !windows_touch(*pool)) continue;
    if (pool->in_shapes[0] != norm.shape) continue;
    norm.shape = pool->shape, norm.output = pool->output;
    for (const char* name : {"kernel_h", "kernel_w"}) norm.attrs[name] = pool->attr(name, 1);
    pool->op = nullptr;
  }
  drop_gone(network);
}

void fuse_relu_into_norm(Network& network) {
  const Readers readers = readers_of(network);
  for (Node& norm : network.nodes) {
    if (norm.op_name != "batch_norm") continue;
    Node* relu = only_reader(network, readers, norm.output);
    const bool pooled = norm.attr("kernel_h", 0) != 0;
    if (relu && relu->op_name == "relu")
      norm.attrs["below"] = 0;
    else if (relu && relu->op_name == "leaky_relu" && !pooled)
      norm.attrs["below"] = relu->attr("negative_slope", 0.01);
    else
      continue;
    norm.output = relu->output;
    relu->op = nullptr;
  }
  drop_gone(network);
}

void centre_input(Network& network) {
  const Readers readers = readers_of(network);
  std::vector<Node> nodes;
  for (Node& linear : network.nodes) {
    const Node* norm =
        linear.op_name == "linear" ? only_reader(network, readers, linear.output) : nullptr;
    const bool centred = norm && norm->op_name == "batch_norm" && norm->attr("batch_stats", 1) != 0;
    // The norm's rows are the set's: each leading dimension would be centred apart.
    if (centred && linear.shape.size() == 1 && norm->in_shapes[0] == linear.shape &&
        !network.learns[linear.inputs[0]]) {
      Node centre;
      centre.op_name = "centre", centre.op = find_op("centre"),
      centre.name = linear.name + " centre";
      centre.inputs = linear.inputs, centre.in_shapes = linear.in_shapes;
      centre.shape = linear.in_shapes[0];
      centre.output = static_cast<int>(network.value_shapes.size());
      network.value_shapes.push_back(centre.shape);
      network.moves.push_back(false), network.learns.push_back(false);
      linear.inputs = {centre.output};
      nodes.push_back(std::move(centre));
    }
    nodes.push_back(std::move(linear));
  }
  network.nodes = std::move(nodes);
}

void fuse_stem(Network& network) {
  const Readers readers = readers_of(network);
  for (Node& conv : network.nodes) {
    if (conv.op_name != "conv2d") continue;
    Node* norm = only_reader(network, readers, conv.output);
    if (!is_stem(network, conv, norm)) continue;
    conv.attrs["conv_h"] = static_cast<double>(conv.shape[1]);
    conv.attrs["conv_w"] = static_cast<double>(conv.shape[2]);
    Node stem = conv;
    stem.op_name = "stem", stem.op = find_op("stem");
    stem.params = {param(conv, 0), param(conv, 1), param(*norm, 0), param(*norm, 1)};
    stem.attrs["pool_h"] = norm->attr("kernel_h", 1),
    stem.attrs["pool_w"] = norm->attr("kernel_w", 1);
    stem.attrs["eps"] = norm->attr("eps", 1e-5), stem.attrs["relu"] = norm->attr("below", 1) == 0;
    stem.inputs.push_back(conv.output), stem.in_shapes.push_back(conv.shape);
    stem.shape = norm->shape, stem.output = norm->output;
    *norm = std::move(stem);
    conv.op_name = "patches", conv.op = find_op("patches");
    conv.name += " patches", conv.params.clear();
    network.moves[conv.output] = network.learns[conv.output] = false;
  }
}

}  // namespace fastmaml
