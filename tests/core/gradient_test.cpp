// The meta-gradient against central differences of the losses that the engine itself computes.
#include <random>

#include "check.hpp"
#include "core/error.hpp"
#include "networks.hpp"

namespace fastmaml::test {
namespace {

constexpr double kStep = 1e-5;       // central differences err by about kStep^2 and 1e-16 / kStep
constexpr double kTolerance = 1e-6;  // of the sum of the terms' magnitudes

// The derivative along a random direction, both ways.
void check_gradient(const NetworkCase& item, const Settings& settings) {
  Problem<double> problem(item.network, settings, 3, 7);
  const auto result = problem.run();
  std::mt19937 generator(11);
  std::normal_distribution<double> normal;
  Problem<double> above = problem, below = problem;
  double slope = 0, scale = 0;
  size_t output = 0;
  for (size_t t = 0; t < problem.theta.size(); ++t) {
    if (!item.network.tensors[t].trained) continue;
    for (size_t i = 0; i < problem.theta[t].size(); ++i) {
      const double direction = normal(generator);
      above.theta[t][i] += kStep * direction, below.theta[t][i] -= kStep * direction;
      slope += direction * result.outputs[output][i];
      scale += std::abs(direction * result.outputs[output][i]);
    }
    ++output;
  }
  const double difference = (above.mean_loss() - below.mean_loss()) / (2 * kStep);
  CHECK(std::abs(difference - slope) <= kTolerance * scale, item.name,
        ", K = ", settings.inner_steps, ": ", slope, " against ", difference);
}

TEST(meta_gradients_are_derivatives_of_the_losses) {
  for (const NetworkCase& item : network_cases())
    for (int steps : {0, 1, 3}) {
      Settings settings;
      settings.support_rows = 4, settings.query_rows = 3;
      settings.inner_steps = steps, settings.factored = item.factored;
      settings.winograd = item.winograd, settings.moment_bytes = item.moment_bytes;
      if (item.smooth) check_gradient(item, settings);
    }
}

TEST(dense_and_factored_weights_agree) {
  for (NetworkCase item : network_cases()) {
    Settings settings;
    settings.support_rows = 4, settings.query_rows = 3, settings.inner_steps = 2;
    settings.factored = 0;
    const auto dense = Problem<double>(item.network, settings, 3, 7).run();
    settings.factored = 1;
    const auto factored = Problem<double>(item.network, settings, 3, 7).run();
    double error = 0, scale = 0;
    for (size_t t = 0; t < dense.outputs.size(); ++t)
      for (size_t i = 0; i < dense.outputs[t].size(); ++i) {
        error = std::max(error, std::abs(dense.outputs[t][i] - factored.outputs[t][i]));
        scale = std::max(scale, std::abs(dense.outputs[t][i]));
      }
    CHECK(error <= 1e-11 * scale, item.name, ": ", error, " of ", scale);
  }
}

}  // namespace
}  // namespace fastmaml::test
