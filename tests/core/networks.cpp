#include "networks.hpp"

#include "ops/op.hpp"

namespace fastmaml::test {

Builder::Builder(Shape row_shape) {
  spec_.row_shape = row_shape;
  shapes_.push_back(std::move(row_shape));
}

int Builder::node(NodeSpec spec) {
  spec.name = spec.op + std::to_string(spec_.nodes.size());
  shapes_.push_back(spec.shape);
  spec_.nodes.push_back(std::move(spec));
  return static_cast<int>(spec_.nodes.size());
}

int Builder::tensor(Shape shape, bool trainable) {
  const int index = static_cast<int>(spec_.tensors.size());
  spec_.tensors.push_back(
      {"tensor" + std::to_string(index), std::move(shape), trainable, trainable});
  return index;
}

int Builder::linear(int x, int64_t out, bool bias, bool trainable) {
  Shape shape = shapes_[x];
  const int weight = tensor({out, shape.back()}, trainable);
  shape.back() = out;
  return node({"linear", {x}, {weight, bias ? tensor({out}, trainable) : -1}, {}, shape, ""});
}

int Builder::batch_norm(int x, bool batch_stats, bool affine) {
  const Shape shape = shapes_[x];
  const Shape features{shape.front()};
  std::vector<int> params{-1, -1, -1, -1};
  if (affine) params[0] = tensor(features), params[1] = tensor(features);
  if (!batch_stats) params[2] = tensor(features, false), params[3] = tensor(features, false);
  const double batch = batch_stats ? 1 : 0;
  return node({"batch_norm", {x}, params, {{"eps", 1e-3}, {"batch_stats", batch}}, shape, ""});
}

// The spec comes with the channels of its output, in front of what stands for height and width.
int Builder::window(NodeSpec spec, int64_t kernel, int64_t stride, int64_t pad) {
  const Shape& in = shapes_[spec.inputs[0]];
  for (size_t i : {1, 2}) spec.shape[i] = (in[i] + 2 * pad - kernel) / stride + 1;
  for (const char* side : {"h", "w"}) {
    spec.attrs[std::string("kernel_") + side] = static_cast<double>(kernel);
    spec.attrs[std::string("stride_") + side] = static_cast<double>(stride);
    spec.attrs[std::string("pad_") + side] = static_cast<double>(pad);
  }
  return node(std::move(spec));
}

int Builder::conv2d(int x, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
                    int64_t groups) {
  const int64_t in = shapes_[x][0];
  const int weight = tensor({out, in / groups, kernel, kernel});
  NodeSpec spec{"conv2d", {x}, {weight, tensor({out})}, {}, {out, 0, 0}, ""};
  spec.attrs["groups"] = static_cast<double>(groups);
  return window(std::move(spec), kernel, stride, pad);
}

int Builder::pool2d(const std::string& op, int x, int64_t kernel, int64_t stride, int64_t pad) {
  return window({op, {x}, {}, {}, {shapes_[x][0], 0, 0}, ""}, kernel, stride, pad);
}

int Builder::adaptive_avg_pool2d(int x, int64_t height, int64_t width) {
  return node({"adaptive_avg_pool2d", {x}, {}, {}, {shapes_[x][0], height, width}, ""});
}

int Builder::add(int x, int y) { return node({"add", {x, y}, {}, {}, shapes_[x], ""}); }

int Builder::reshape(int x, Shape shape) {
  return node({"reshape", {x}, {}, {}, std::move(shape), ""});
}

int Builder::pointwise(const std::string& op, int x, std::map<std::string, double> attrs) {
  return node({op, {x}, {}, std::move(attrs), shapes_[x], ""});
}

NetworkSpec Builder::finish(int output, const std::string& loss,
                            std::map<std::string, double> attrs) {
  spec_.output = output;
  spec_.loss = {loss, {}, {}, std::move(attrs), {}, ""};
  return spec_;
}

namespace {

NetworkSpec around(const std::string& op, std::map<std::string, double> attrs = {}) {
  Builder b({3});
  const int h = b.pointwise(op, b.linear(0, 9), std::move(attrs));
  return b.finish(b.linear(h, 2), "mse");
}

NetworkSpec normalised(bool batch_stats, bool affine) {
  Builder b({3});
  const int h = b.batch_norm(b.linear(0, 19), batch_stats, affine);
  return b.finish(b.linear(b.pointwise("tanh", h), 2), "mse");
}

NetworkSpec wide(const std::string& loss, std::map<std::string, double> attrs) {
  Builder b({13});
  const int h = b.pointwise("softplus", b.linear(0, 37));
  return b.finish(b.linear(b.pointwise("silu", b.linear(h, 21, false)), 5), loss, std::move(attrs));
}

NetworkSpec residual() {
  Builder b({2, 3});
  const int h = b.add(b.pointwise("tanh", b.linear(0, 3)), 0);
  const int flat = b.reshape(b.add(h, h), {6});
  return b.finish(b.linear(b.pointwise("gelu", b.linear(flat, 6, true, false)), 2), "mse");
}

// Images of two channels through ragged convolutions, norm, pools, a residual and the permutation
// that flattening asks for.
NetworkSpec images(const std::string& pool) {
  Builder b({2, 9, 7});
  const int first = b.pointwise("tanh", b.conv2d(0, 6, 3, 2, 1));
  const int grouped = b.batch_norm(b.conv2d(first, 6, 3, 1, 1, 3), true);
  const int h = b.pool2d(pool, b.pointwise("silu", b.add(grouped, first)), 2, 1, 1);
  const int wide = b.adaptive_avg_pool2d(b.conv2d(h, 19, 2, 1, 0), 2, 3);
  return b.finish(b.linear(b.reshape(wide, {19 * 6}), 3), "cross_entropy");
}

// Convolutions with tiles that reach over the edge, more than a block of them, and ragged vectors.
NetworkSpec winograd() {
  Builder b({2, 13, 15});
  const int first = b.pointwise("tanh", b.conv2d(0, 18, 3, 1, 1));
  const int second = b.pointwise("silu", b.conv2d(first, 3, 3, 1, 0));
  const int pooled = b.adaptive_avg_pool2d(b.conv2d(second, 5, 3, 1, 2), 1, 1);
  return b.finish(b.linear(b.reshape(pooled, {5}), 3), "cross_entropy");
}

// A weight whose gradient is made in several panels.
NetworkSpec channels() {
  Builder b({2, 4, 5});
  const int first = b.pointwise("tanh", b.conv2d(0, 10, 3, 1, 1));
  const int wide = b.pointwise("silu", b.conv2d(first, 165, 3, 1, 1));
  const int pooled = b.adaptive_avg_pool2d(wide, 1, 1);
  return b.finish(b.linear(b.reshape(pooled, {165}), 3), "cross_entropy");
}

// Norms behind convolutions whose rows fill several groups of moments, the last one in part.
NetworkSpec moments() {
  Builder b({2, 7, 9});
  const int first = b.pointwise("tanh", b.conv2d(0, 5, 3, 1, 1));
  const int wide = b.batch_norm(b.conv2d(first, 35, 3, 1, 1, 5), true);
  const int second = b.batch_norm(b.conv2d(b.pointwise("silu", wide), 38, 2, 1, 0), true);
  const int pooled = b.adaptive_avg_pool2d(b.pointwise("silu", second), 1, 1);
  return b.finish(b.linear(b.reshape(pooled, {38}), 3), "cross_entropy");
}

// Norms of every kind that make their own sums, and work enough for threads to share a task.
NetworkSpec shared_rows() {
  Builder b({3, 11, 9});
  const int first = b.pointwise("tanh", b.conv2d(0, 37, 3, 1, 1));
  const int leaky = b.pointwise("leaky_relu", b.batch_norm(first, true), {{"negative_slope", 0.1}});
  const int second = b.pointwise("silu", b.conv2d(leaky, 35, 1, 1, 0));
  const int running = b.pointwise("tanh", b.batch_norm(second, false));
  const int plain = b.pointwise("softplus", b.batch_norm(running, true));
  const int pooled =
      b.pool2d("max_pool2d", b.pointwise("relu", b.batch_norm(plain, true)), 2, 2, 0);
  return b.finish(b.linear(b.reshape(b.adaptive_avg_pool2d(pooled, 1, 1), {35}), 3),
                  "cross_entropy");
}

// A first block that becomes a stem, and a second that stays a pooled norm.
NetworkSpec stem(int64_t channels, int64_t stride) {
  Builder b({channels, 11, 9});
  const int h = b.batch_norm(b.conv2d(0, 18, 3, stride, 1), true);
  const int first = b.pool2d("max_pool2d", b.pointwise("relu", h), 2, 2, 0);
  const int g = b.batch_norm(b.conv2d(first, 5, 2, 1, 1), true);
  const int second = b.pool2d("max_pool2d", b.pointwise("relu", g), 2, 2, 0);
  return b.finish(b.linear(b.reshape(b.adaptive_avg_pool2d(second, 1, 1), {5}), 3),
                  "cross_entropy");
}

}  // namespace

std::vector<NetworkCase> network_cases() {
  std::vector<NetworkCase> cases;
  for (const char* op :
       {"relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid"})
    cases.push_back({op, around(op)});
  cases.push_back({"gelu, tanh form", around("gelu", {{"tanh", 1}})});
  cases.push_back({"batch_norm", normalised(true, true)});
  cases.push_back({"batch_norm, plain", normalised(true, false)});
  cases.push_back({"batch_norm, running", normalised(false, true)});
  cases.push_back({"residual", residual()});
  cases.push_back({"images, max_pool2d", images("max_pool2d"), -1, false});
  cases.push_back({"images, avg_pool2d", images("avg_pool2d")});
  for (const int tile : {5, 6}) {
    const std::string tiles = ", tiles of " + std::to_string(tile);
    cases.push_back({"Winograd's convolutions" + tiles, winograd(), -1, true, tile});
    cases.push_back({"Winograd's method for many channels" + tiles, channels(), -1, true, tile});
  }
  cases.push_back({"stem", stem(3, 1), -1, false});
  cases.push_back({"stem, strided", stem(2, 2), -1, false});
  cases.push_back({"moments left to norms", moments(), -1, true, 0, 0});
  cases.push_back({"norms whose rows threads share", shared_rows(), -1, false, 0, 0});
  for (int factored : {0, 1})
    for (double sum : {0.0, 1.0})
      for (const char* loss : {"mse", "cross_entropy", "bce_with_logits"})
        cases.push_back({std::string(loss) + (factored ? ", factored" : ", dense"),
                         wide(loss, {{"sum", sum}, {"label_smoothing", 0.2 * sum}}), factored});
  return cases;
}

template <class T>
Problem<T>::Problem(const NetworkSpec& spec, const Settings& s, int64_t count, unsigned seed)
    : network(spec), settings(s), tasks(count) {
  settings.dtype = sizeof(T) == 8 ? Dtype::f64 : Dtype::f32;
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  const Shape output = spec.nodes.at(spec.output - 1).shape;
  auto fill = [&](std::vector<T>& values, int64_t size, auto& distribution, double scale) {
    values.resize(size);
    for (T& value : values) value = static_cast<T>(scale * distribution(generator));
  };
  auto classes = [&](std::vector<int64_t>& values, int64_t size) {
    values.resize(size);
    for (int64_t& value : values) value = static_cast<int64_t>(generator() % output.back());
  };
  const int64_t support = tasks * s.support_rows, query = tasks * s.query_rows;
  fill(support_x, support * numel(spec.row_shape), normal, 1);
  fill(query_x, query * numel(spec.row_shape), normal, 1);
  fill(support_y, support * numel(output), uniform, 1);
  fill(query_y, query * numel(output), uniform, 1);
  classes(support_classes, support), classes(query_classes, query);
  for (const TensorSpec& tensor : spec.tensors) {
    theta.emplace_back();
    // Running variances must be positive; weights are scaled to keep activations near 1.
    if (tensor.trained)
      fill(theta.back(), numel(tensor.shape), normal, 1 / std::sqrt(double(tensor.shape.back())));
    else
      fill(theta.back(), numel(tensor.shape), uniform, 1);
  }
}

template <class T>
typename Problem<T>::Result Problem<T>::run(const Plan& plan, int threads, int fill,
                                            std::vector<InstructionTime>* times) const {
  const Settings& s = plan.settings();
  const Workspace workspace(plan.workspace_bytes(tasks, threads, lanes), fill);
  const bool adapt = s.mode == Mode::adapt, classes = network.loss.op == "cross_entropy";
  Result result;
  const int64_t sets = s.mode == Mode::curve ? s.inner_steps + 1 : 1;  // of query outputs
  result.losses.resize(adapt ? 0 : sets * tasks);
  result.logits.resize(adapt ? 0 : sets * tasks * s.query_rows * numel(plan.output_shape()));
  result.rate_dots.resize(s.rate_grad ? tasks * s.inner_steps : 0);
  for (const TensorSpec& tensor : network.tensors)
    if (tensor.trained && s.mode != Mode::evaluate && s.mode != Mode::curve)
      result.outputs.emplace_back(numel(tensor.shape) * (adapt ? tasks : 1));
  Call call;
  call.tasks = tasks, call.threads = threads, call.lanes = lanes;
  call.all_threads = all_threads, call.poll = poll;
  call.support_x = support_x.data(), call.query_x = query_x.data();
  call.support_y = classes ? static_cast<const void*>(support_classes.data()) : support_y.data();
  call.query_y = classes ? static_cast<const void*>(query_classes.data()) : query_y.data();
  for (int k = 0; k < s.inner_steps; ++k) call.rates.push_back(0.1 + 0.05 * k);
  for (const auto& values : theta) call.tensors.push_back(values.data());
  for (auto& values : result.outputs) (adapt ? call.fast : call.grads).push_back(values.data());
  call.task_losses = result.losses.data(), call.logits = result.logits.data();
  call.rate_dots = result.rate_dots.data();
  call.workspace = workspace.data(), call.workspace_bytes = workspace.bytes();
  if (times)
    *times = plan.profile(call);
  else
    plan.run(call);
  return result;
}

template <class T>
T Problem<T>::mean_loss() const {
  Settings evaluate = settings;
  evaluate.mode = Mode::evaluate, evaluate.rate_grad = false;
  T total = 0;
  for (T loss : run(Plan(network, evaluate), 1).losses) total += loss;
  return total / static_cast<T>(tasks);
}

template struct Problem<float>;
template struct Problem<double>;

}  // namespace fastmaml::test
