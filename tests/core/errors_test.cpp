// What the core refuses, by class and text.
#include "check.hpp"
#include "core/error.hpp"
#include "core/poll.hpp"
#include "networks.hpp"
#include "plan/lifetime.hpp"

namespace fastmaml::test {
namespace {

NetworkSpec small(const std::string& op = "tanh", const std::string& loss = "mse") {
  Builder b({3});
  return b.finish(b.linear(b.pointwise(op, b.linear(0, 4)), 2), loss);
}

TEST(unknown_ops_and_losses_are_named) {
  CHECK_THROWS(UnsupportedModelError, "no op named sine", Plan(small("sine"), {}));
  CHECK_THROWS(UnsupportedModelError, "no loss named hinge", Plan(small("tanh", "hinge"), {}));
}

TEST(shapes_that_do_not_fit_name_the_layer) {
  NetworkSpec spec = small();
  spec.tensors[0].shape = {4, 5};
  CHECK_THROWS(ShapeError, "layer `linear0`", Plan(spec, {}));
  spec = small();
  spec.nodes[1].shape = {5};
  CHECK_THROWS(ShapeError, "layer `tanh1`", Plan(spec, {}));
  Builder b({3});
  const int h = b.linear(0, 4);
  NetworkSpec sum = b.finish(b.add(h, b.linear(0, 5)), "mse");
  CHECK_THROWS(ShapeError, "add needs two inputs of one shape", Plan(sum, {}));
  Builder c({2, 3});
  CHECK_THROWS(ShapeError, "batch_norm needs one input of [rows, 4]",
               Plan(c.finish(c.batch_norm(c.linear(0, 4), true), "mse"), {}));
  Builder d({2, 3});
  CHECK_THROWS(UnsupportedModelError, "flatten the output",
               Plan(d.finish(d.linear(0, 4), "cross_entropy"), {}));
}

TEST(batch_statistics_of_one_row_are_refused) {
  Builder b({3});
  const NetworkSpec spec = b.finish(b.batch_norm(b.linear(0, 4), true), "mse");
  CHECK_THROWS(ShapeError, "more than one row per task, got 1", Plan(spec, {}));
}

TEST(settings_out_of_range_are_refused) {
  Settings settings;
  settings.inner_steps = -1;
  CHECK_THROWS(SettingError, "inner_steps must be at least 0, got -1", Plan(small(), settings));
  settings.inner_steps = 1, settings.support_rows = 0;
  CHECK_THROWS(ShapeError, "at least one row", Plan(small(), settings));
}

TEST(a_trainable_tensor_without_a_cotangent_is_refused) {
  Builder b({3});
  NetworkSpec spec = b.finish(b.batch_norm(b.linear(0, 4), false), "mse");
  Settings settings;
  settings.factored = 0;
  const Plan plan(spec, settings);
  TensorSpec& mean = spec.tensors[4];
  mean.adapted = mean.trained = true;
  CHECK_THROWS(InternalError, "no layer gives `" + mean.name + "` a cotangent",
               Plan(spec, settings));
}

TEST(a_weight_of_convolutions_in_two_layouts_is_refused) {
  Builder b({2, 5, 5});
  const int pooled = b.adaptive_avg_pool2d(b.conv2d(b.conv2d(0, 4, 3, 1, 1), 4, 3, 1, 1, 2), 1, 1);
  NetworkSpec spec = b.finish(b.reshape(pooled, {4}), "mse");
  spec.nodes[1].params[0] = spec.nodes[0].params[0];
  CHECK_THROWS(UnsupportedModelError, "is shared between convolutions of 1 and 2 groups",
               Plan(spec, {}));
}

TEST(reading_what_was_never_written_is_refused) {
  const Poll poll;
  auto place = [&](bool written) {
    Program program;
    program.names = {"fc.forward"};
    ContractArgs make, use;
    make.c.buffer = use.cin.buffer = 0;
    use.c.buffer = 1;
    if (written) program.body.push_back({make, {}});
    program.body.push_back({use, {}});
    Poller poller(poll);
    place_buffers(program, {4, 4}, {false, false}, poller);
  };
  place(true);
  CHECK_THROWS(InternalError, "`fc.forward` reads what no instruction", place(false));
}

TEST(a_call_that_does_not_fit_the_plan_is_refused) {
  Settings settings;
  settings.dtype = Dtype::f64;
  const Plan plan(small(), settings);
  Call call;
  CHECK_THROWS(InternalError, "tasks must be at least 1, got 0", plan.run(call));
  call.tasks = 1;
  CHECK_THROWS(InternalError, "rates must hold 1 numbers, got 0", plan.run(call));
  call.rates = {0.1};
  CHECK_THROWS(InternalError, "tensors must hold 4 pointers, got 0", plan.run(call));
}

}  // namespace
}  // namespace fastmaml::test
