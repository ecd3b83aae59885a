#include "plan/network.hpp"

#include "core/error.hpp"
#include "ops/registry.hpp"

namespace fastmaml {
namespace {

void check_indices(const NodeSpec& spec, size_t values, size_t tensors) {
  for (int input : spec.inputs)
    if (input < 0 || static_cast<size_t>(input) >= values)
      throw InternalError(message("layer `", spec.name, "` reads value ", input, " of ", values));
  for (int param : spec.params)
    if (param >= static_cast<int>(tensors))
      throw InternalError(message("layer `", spec.name, "` reads tensor ", param, " of ", tensors));
}

void check_not_empty(const Shape& shape, const std::string& what) {
  for (int64_t size : shape)
    if (size < 1)
      throw UnsupportedModelError(
          message("`", what, "`: every dimension must be positive, got ", size));
}

bool depends_on_trainable(const Network& network, const Node& node) {
  for (int input : node.inputs)
    if (network.active[input]) return true;
  for (int param : node.params)
    if (param >= 0 && network.tensors[param].trainable) return true;
  return false;
}

// Every value must be read by a later layer or be the logits, or its cotangent would not exist.
void check_all_read(const Network& network) {
  std::vector<bool> read(network.value_shapes.size(), false);
  read[network.output] = true;
  for (const Node& node : network.nodes)
    for (int input : node.inputs) read[input] = true;
  for (const Node& node : network.nodes)
    if (!read[node.output])
      throw InternalError(message("layer `", node.name, "`: its output is never read"));
}

}  // namespace

Network build_network(const NetworkSpec& spec) {
  check_not_empty(spec.row_shape, "the input's row");
  for (const TensorSpec& tensor : spec.tensors) check_not_empty(tensor.shape, tensor.name);
  for (const NodeSpec& node : spec.nodes) check_not_empty(node.shape, node.name);
  Network network;
  network.tensors = spec.tensors;
  for (const TensorSpec& tensor : spec.tensors)
    network.trainable.push_back(tensor.trainable ? network.trainable_count++ : -1);

  // For each value id of the spec: its canonical value, and its shape as the next layer sees it.
  std::vector<int> canonical{0};
  std::vector<Shape> seen{spec.row_shape};
  network.value_shapes = {spec.row_shape};
  network.active = {false};

  for (const NodeSpec& item : spec.nodes) {
    check_indices(item, canonical.size(), spec.tensors.size());
    if (item.op == "reshape") {
      if (numel(item.shape) != numel(seen[item.inputs.at(0)]))
        throw ShapeError(message("layer `", item.name, "`: a reshape must keep the ",
                                 numel(seen[item.inputs[0]]), " numbers of a row, got ",
                                 numel(item.shape)));
      canonical.push_back(canonical[item.inputs[0]]);
      seen.push_back(item.shape);
      continue;
    }
    Node node;
    node.op = find_op(item.op);
    if (!node.op)
      throw UnsupportedModelError(message("layer `", item.name, "`: no op named ", item.op));
    node.op_name = item.op, node.name = item.name, node.shape = item.shape;
    node.params = item.params, node.attrs = item.attrs;
    for (int input : item.inputs) {
      node.inputs.push_back(canonical[input]);
      node.in_shapes.push_back(seen[input]);
    }
    node.output = static_cast<int>(network.value_shapes.size());
    node.op->check(node, network.tensors);
    network.active.push_back(depends_on_trainable(network, node));
    network.value_shapes.push_back(item.shape);
    canonical.push_back(node.output);
    seen.push_back(item.shape);
    network.nodes.push_back(std::move(node));
  }
  network.output = canonical.at(spec.output);
  if (!network.active[network.output])
    throw UnsupportedModelError("the model's output must depend on a trainable parameter");

  check_all_read(network);

  network.loss_op = find_loss(spec.loss.op);
  if (!network.loss_op) throw UnsupportedModelError(message("no loss named ", spec.loss.op));
  network.loss.op_name = spec.loss.op, network.loss.name = spec.loss.op;
  network.loss.attrs = spec.loss.attrs;
  network.loss.inputs = {network.output};
  network.loss.in_shapes = {seen[spec.output]};
  return network;
}

}  // namespace fastmaml
