#include "plan/network.hpp"

#include <iterator>
#include <map>
#include <utility>

#include "core/error.hpp"
#include "ops/registry.hpp"
#include "plan/rewrite.hpp"

namespace fastmaml {
namespace {

// Of one tensor or row: products of several sizes and counts of bytes stay within 64 bits.
constexpr double kMostNumbers = 1e12;

void check_indices(const NodeSpec& spec, size_t values, size_t tensors) {
  if (spec.inputs.empty()) throw InternalError(message("layer `", spec.name, "` has no input"));
  for (int input : spec.inputs)
    if (input < 0 || static_cast<size_t>(input) >= values)
      throw InternalError(message("layer `", spec.name, "` reads value ", input, " of ", values));
  for (int param : spec.params)
    if (param < -1 || param >= static_cast<int>(tensors))
      throw InternalError(message("layer `", spec.name, "` reads tensor ", param, " of ", tensors));
}

void check_not_empty(const Shape& shape, const std::string& what) {
  for (int64_t size : shape)
    if (size < 1)
      throw UnsupportedModelError(
          message("`", what, "`: every dimension must be positive, got ", size));
  double count = 1;
  for (int64_t size : shape) count *= static_cast<double>(size);
  if (count > kMostNumbers)
    throw UnsupportedModelError(message("`", what, "` is too large: ", count, " numbers"));
}

// Whether an input of the node does, or a parameter.
template <class OfTensor>
bool any_of(const Node& node, const std::vector<bool>& inputs, OfTensor&& of_tensor) {
  for (int input : node.inputs)
    if (inputs[input]) return true;
  for (int param : node.params)
    if (param >= 0 && of_tensor(param)) return true;
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

// A layout that a reshape asked for and no layer reads: the next one took it back to the other.
void drop_unread_permutes(Network& network) {
  std::vector<bool> read(network.value_shapes.size(), false);
  read[network.output] = true;
  std::vector<Node> kept;
  for (size_t i = network.nodes.size(); i-- > 0;) {
    Node& node = network.nodes[i];
    if (node.op_name == "permute" && !read[node.output]) continue;
    for (int input : node.inputs) read[input] = true;
    kept.push_back(std::move(node));
  }
  network.nodes.assign(std::make_move_iterator(kept.rbegin()),
                       std::make_move_iterator(kept.rend()));
}

// Builds the network value by value. Images are converted between torch's order and channels-last
// where neighbouring layers disagree, once for each value.
class Builder {
 public:
  explicit Builder(const NetworkSpec& spec) {
    network.tensors = spec.tensors;
    add_value(spec.row_shape, MemoryOrder::torch, false, false);
    seen = {{0, spec.row_shape}};
  }

  void add(const NodeSpec& item) {
    check_indices(item, seen.size(), network.tensors.size());
    if (item.op == "reshape") return reshape(item);
    Node node;
    node.op = find_op(item.op);
    if (!node.op)
      throw UnsupportedModelError(message("layer `", item.name, "`: no op named ", item.op));
    node.op_name = item.op, node.name = item.name, node.shape = item.shape;
    node.params = item.params, node.attrs = item.attrs;
    for (int input : item.inputs) node.in_shapes.push_back(seen[input].shape);
    MemoryOrder order = node.op->order(node);
    for (int input : item.inputs) {
      if (order == MemoryOrder::any) order = orders_[seen[input].value];
      node.inputs.push_back(in_order(seen[input], order));
    }
    seen.push_back({append(std::move(node), order), item.shape});
  }

  // The value a spec's id stands for, in torch's order.
  int output(int id) { return in_order(seen.at(id), MemoryOrder::torch); }

  Network network;
  struct Seen {
    int value;    // canonical
    Shape shape;  // as the next layer sees it
  };
  std::vector<Seen> seen;  // by value id of the spec

 private:
  int add_value(const Shape& shape, MemoryOrder order, bool moves, bool learns) {
    network.value_shapes.push_back(shape);
    network.moves.push_back(moves), network.learns.push_back(learns);
    // Where both orders are one it is torch's, whatever the layer: a reshape may follow.
    orders_.push_back(two_orders(shape) ? order : MemoryOrder::torch);
    return static_cast<int>(network.value_shapes.size()) - 1;
  }

  int append(Node node, MemoryOrder order) {
    node.output = static_cast<int>(network.value_shapes.size());
    node.op->check(node, network.tensors);
    const std::vector<TensorSpec>& tensors = network.tensors;
    const bool moves = any_of(node, network.moves, [&](int t) { return tensors[t].adapted; });
    const bool learns = any_of(node, network.learns,
                               [&](int t) { return tensors[t].adapted || tensors[t].trained; });
    add_value(node.shape, order, moves, learns);
    network.nodes.push_back(std::move(node));
    return network.nodes.back().output;
  }

  void reshape(const NodeSpec& item) {
    const Seen& from = seen[item.inputs[0]];
    if (numel(item.shape) != numel(from.shape))
      throw ShapeError(message("layer `", item.name, "`: a reshape must keep the ",
                               numel(from.shape), " numbers of a row, got ", numel(item.shape)));
    seen.push_back({in_order(from, MemoryOrder::torch), item.shape});
  }

  static bool two_orders(const Shape& shape) {
    return shape.size() == 3 && shape[0] > 1 && shape[1] * shape[2] > 1;
  }

  // The value in another order; the same value where both orders are one.
  int in_order(const Seen& from, MemoryOrder order) {
    const Shape& shape = from.shape;
    if (!two_orders(shape) || orders_[from.value] == order) return from.value;
    const auto known = converted_.find({from.value, shape});
    if (known != converted_.end()) return known->second;
    Node node;
    node.op = find_op("permute"), node.op_name = "permute";
    node.name = message("value ", from.value);
    node.inputs = {from.value}, node.in_shapes = {shape}, node.shape = shape;
    node.attrs["to_last"] = order == MemoryOrder::channels_last;
    const int made = append(std::move(node), order);
    converted_[{from.value, shape}] = made, converted_[{made, shape}] = from.value;
    return made;
  }

  std::vector<MemoryOrder> orders_;  // by canonical value
  // By canonical value and the image that a layer sees in it: the same value in the other order.
  std::map<std::pair<int, Shape>, int> converted_;
};

}  // namespace

Readers readers_of(const Network& network) {
  Readers readers(network.value_shapes.size());
  for (size_t i = 0; i < network.nodes.size(); ++i)
    for (int input : network.nodes[i].inputs) readers[input].push_back(static_cast<int>(i));
  return readers;
}

Network build_network(const NetworkSpec& spec) {
  check_not_empty(spec.row_shape, "the input's row");
  for (const TensorSpec& tensor : spec.tensors) check_not_empty(tensor.shape, tensor.name);
  for (const NodeSpec& node : spec.nodes) check_not_empty(node.shape, node.name);
  Builder builder(spec);
  for (const NodeSpec& item : spec.nodes) builder.add(item);
  const int output = builder.output(spec.output);
  Network& network = builder.network;
  network.output = output;
  if (!network.moves[network.output])
    throw UnsupportedModelError("the model's output must depend on a trainable parameter");

  drop_unread_permutes(network);
  check_all_read(network);
  pool_before_relu(network);
  fuse_pool_into_norm(network);
  fuse_relu_into_norm(network);
  fuse_stem(network);
  centre_input(network);

  network.loss_op = find_loss(spec.loss.op);
  if (!network.loss_op) throw UnsupportedModelError(message("no loss named ", spec.loss.op));
  network.loss.op_name = spec.loss.op, network.loss.name = spec.loss.op;
  network.loss.attrs = spec.loss.attrs;
  network.loss.inputs = {network.output};
  network.loss.in_shapes = {builder.seen[spec.output].shape};
  return std::move(network);
}

}  // namespace fastmaml
