// Writes the program: inner steps, query pass, sweep, commit.
//
//   for k < K:        forward, backward on the support set -> phi[k + 1]
//   query:            forward (and backward -> v)
//   for k = K-1..0:   u = -alpha[k] v;  forward_jvp, backward_jvp on the values of step k -> v
#include "plan/program.hpp"

#include <algorithm>
#include <deque>
#include <iterator>

#include "core/error.hpp"
#include "core/poll.hpp"
#include "ops/winograd/winograd.hpp"
#include "plan/convolutions.hpp"
#include "plan/draft.hpp"
#include "plan/emit.hpp"
#include "plan/epilogues.hpp"
#include "plan/weights.hpp"

namespace fastmaml {
namespace {

using Phase = Emit::Phase;

struct Uses {
  int64_t rows = 0;  // rows of x for each row of the set (leading dimensions), over all uses
  bool x_moves = false, x_learns = false;  // some use's input does: it has an input gradient
  bool other = false;                      // something but a linear layer's product reads it
};

std::vector<Uses> weight_uses(const Network& network) {
  std::vector<Uses> uses(network.tensors.size());
  for (const Node& node : network.nodes) {
    const bool linear = node.op_name == "linear";
    for (size_t i = 0; i < node.params.size(); ++i)
      if (node.has_param(i) && !(linear && i == kWeight)) uses[node.params[i]].other = true;
    if (!linear) continue;
    Uses& use = uses[node.params[kWeight]];
    use.rows += numel(node.in_shapes[0]) / node.in_shapes[0].back();
    use.x_moves = use.x_moves || network.moves[node.inputs[0]];
    use.x_learns = use.x_learns || network.learns[node.inputs[0]];
  }
  return uses;
}

// Estimated cycles of one task per weight, from rates measured on Zen 4 (float32): 32 FLOP a cycle
// at best, 70% of that for contractions of one task's few rows, 85% for rows of stacked tasks, half
// for the factors' sums, whose inner products cost 16 cycles each on top and whose instructions 400
// for each pair of passes; a transposed copy takes half a cycle a number, every further pass over a
// task's own weights a quarter.
struct WeightCost {
  double dense, factored;
};

WeightCost weight_cost(const Settings& s, const TensorSpec& tensor, const Uses& uses) {
  const double out = tensor.shape[0], in = tensor.shape[1], area = in * out;
  const double support = static_cast<double>(s.support_rows * uses.rows);
  const auto query = static_cast<double>(query_passes(s) * s.query_rows * uses.rows);
  const double steps = s.inner_steps;
  const bool meta = s.mode == Mode::meta_step, second = meta && !s.first_order;
  const double moves = uses.x_moves ? 1 : 0, learns = uses.x_learns ? 1 : 0;
  // Forwards' worth of arithmetic (1 = one product with W): forward, x_bar, W_bar; HVP twice that.
  double dense = steps * support * (2 + moves) + query * (meta ? 2 + learns : 1);
  double passes = 2 * steps + (meta ? 2 : 0);
  double copies = steps;
  double shared = steps * support * (1 + moves) + query * (meta ? 1 + learns : 1);
  double outer = meta ? query : 0;
  double ranks = 0;  // sum of rows * rank of the corrections
  double pairs = 0;  // of instructions that make them
  for (int k = 0; k < s.inner_steps; ++k) {
    const double rank = support * k;
    ranks += support * rank * (1 + moves);
    pairs += k > 0 ? 1 + moves : 0;
    if (!second) continue;
    const double sweep_rank = query + support * (1 + moves) * (s.inner_steps - 1 - k);
    ranks += support * ((moves + learns) * rank + (1 + learns) * sweep_rank);
    pairs += 2 + moves + learns;
  }
  ranks += query * steps * support * (meta ? 1 + learns : 1);
  pairs += steps > 0 ? 1 + learns : 0;
  if (second) {
    dense += steps * support * (2 + 2 * (moves + learns)), passes += 3 * steps, copies += steps;
    shared += steps * support * (moves + learns);
    outer += steps * support * (1 + moves);
  }
  const double flop = 2 * area / 32;
  return {dense * flop / 0.7 + area * (copies * 0.5 + passes * 0.25),
          (shared + outer) * flop / 0.85 + ranks * ((in + out) / 8 + 16) + pairs * 400};
}

std::vector<bool> choose_factored(Program& program) {
  const Settings& s = program.settings;
  const Network& network = program.network;
  const std::vector<Uses> uses = weight_uses(network);
  std::vector<bool> factored(network.tensors.size(), false);
  for (size_t t = 0; t < network.tensors.size(); ++t) {
    const TensorSpec& tensor = network.tensors[t];
    const bool learned = tensor.adapted || tensor.trained;
    if (!learned || uses[t].rows == 0 || uses[t].other || s.mode == Mode::adapt) continue;
    const WeightCost cost = weight_cost(s, tensor, uses[t]);
    // What is not adapted has no factors but the meta-gradient's. A tie goes to dense: its
    // instructions are fewer.
    const bool pays = !tensor.adapted || cost.factored < 0.8 * cost.dense;
    factored[t] = s.factored >= 0 ? s.factored == 1 : pays;
    program.any_factored = program.any_factored || factored[t];
    program.decisions.push_back(message("weight ", tensor.name, ": ",
                                        factored[t] ? "factored" : "dense", " (estimated ",
                                        static_cast<int64_t>(cost.dense), " cycles dense, ",
                                        static_cast<int64_t>(cost.factored), " factored)"));
  }
  return factored;
}

class Writer {
 public:
  Writer(Program& program, const std::vector<bool>& factored, const Poll& poll)
      : settings_(program.settings),
        network_(program.network),
        draft_(program),
        weights_(draft_, factored),
        emit_(draft_, weights_),
        poll_(poll),
        still_support_(emit_.make_pass(0, false)),
        still_query_(emit_.make_pass(0, true)) {}

  void write() {
    const Settings& s = settings_;
    std::vector<Pass> support;
    support.reserve(s.inner_steps);
    for (int k = 0; k < s.inner_steps; ++k) {
      poll_();
      if (s.mode == Mode::curve) write_query(k);
      if (k == 0) forward(still_support_);
      support.push_back(emit_.make_pass(k, false, still_support_));
      weights_.begin_update();
      forward(support.back());
      backward(support.back());
      weights_.end_update();
    }
    if (s.mode == Mode::adapt) {
      weights_.write_fast_weights();
    } else {
      write_query(s.inner_steps);
      if (s.mode == Mode::meta_step) {
        for (int k = s.inner_steps - 1; k >= 0; --k) {
          poll_();
          if (s.rate_grad) weights_.write_rate_dot(k);
          if (!s.first_order) sweep(support[k]);
        }
        if (s.inner_steps > 0 && !s.first_order) tail(still_support_);
        weights_.write_commit();
      }
    }
    draft_.place(poll_);
  }

 private:
  // The values of an inner step once more, in new buffers: the old ones end where the step did.
  void make_again(Pass& pass) {
    Pass again = emit_.make_pass(pass.step, false, still_support_);
    emit_.replay(true);
    forward(again);
    backward(again);
    emit_.replay(false);
    pass = std::move(again);
  }

  void label(const Node& node, const Pass& pass, const char* phase) {
    draft_.label(node.name + "." + phase, pass.query ? Label::kQuery : pass.step);
  }

  void forward(Pass& pass) {
    emit_.enter(pass, Phase::forward);
    for (const Node& node : network_.nodes) {
      if (network_.moves[node.output] != (pass.still != nullptr)) continue;
      label(node, pass, "forward");
      node.op->forward(emit_, node);
    }
  }

  void backward(Pass& pass) {
    emit_.enter(pass, Phase::backward);
    label(network_.loss, pass, "backward");
    network_.loss_op->backward(emit_, network_.loss);
    for (size_t i = network_.nodes.size(); i-- > 0;) {
      const Node& node = network_.nodes[i];
      if (!network_.moves[node.output]) continue;
      label(node, pass, "backward");
      node.op->backward(emit_, node);
    }
  }

  // The backward pass of what does not step, from the sum of its cotangents.
  void tail(Pass& still) {
    emit_.enter(still, Phase::backward);
    for (size_t i = network_.nodes.size(); i-- > 0;) {
      const Node& node = network_.nodes[i];
      if (network_.moves[node.output] || !network_.learns[node.output]) continue;
      label(node, still, "backward");
      node.op->backward(emit_, node);
    }
    weights_.end_cotangents();
  }

  void write_query(int step) {
    if (queries_.empty()) forward(still_query_);
    Pass& query = queries_.emplace_back(emit_.make_pass(step, true, still_query_));
    forward(query);
    label(network_.loss, query, "forward");
    network_.loss_op->forward(emit_, network_.loss);
    if (settings_.mode != Mode::meta_step) return;
    weights_.begin_query();
    backward(query);
    tail(still_query_);
  }

  void sweep(Pass& pass) {
    weights_.begin_sweep(pass.step);
    if (settings_.recompute) make_again(pass);
    emit_.enter(pass, Phase::forward_jvp);
    for (const Node& node : network_.nodes) {
      if (!network_.moves[node.output]) continue;
      label(node, pass, "forward_jvp");
      node.op->forward_jvp(emit_, node);
    }
    emit_.enter(pass, Phase::backward_jvp);
    label(network_.loss, pass, "backward_jvp");
    network_.loss_op->backward_jvp(emit_, network_.loss);
    for (size_t i = network_.nodes.size(); i-- > 0;) {
      const Node& node = network_.nodes[i];
      if (!network_.moves[node.output]) continue;
      label(node, pass, "backward_jvp");
      node.op->backward_jvp(emit_, node);
    }
    weights_.end_cotangents();
  }

  const Settings& settings_;
  const Network& network_;
  Draft draft_;
  Weights weights_;
  Emit emit_;
  Poller poll_;
  Pass still_support_, still_query_;
  std::deque<Pass> queries_;
};

const char* decision_on_activations(const Settings& s) {
  const bool sweeps = s.mode == Mode::meta_step && !s.first_order;
  if (!sweeps || s.inner_steps == 0) return "of one inner step at a time";
  return s.recompute ? "recomputed for each inner step of the sweep" : "kept of all inner steps";
}

double total_flops(const std::vector<Instruction>& section) {
  double total = 0;
  for (const Instruction& instruction : section) total += flops(instruction.args);
  return total;
}

// The scratch of the instruction that asks for most.
size_t most_scratch(const Program& program) {
  size_t most = 0;
  for (const Instruction& instruction : program.body)
    most = std::max(most, scratch_bytes(instruction.args, element_bytes(program.settings)));
  return most;
}

void check_settings(const Settings& s) {
  if (s.inner_steps < 0)
    throw SettingError(message("inner_steps must be at least 0, got ", s.inner_steps));
  if (s.support_rows < 1 || (s.query_rows < 1 && s.mode != Mode::adapt))
    throw ShapeError(message("a task needs at least one row in each set, got ", s.support_rows,
                             " and ", s.query_rows));
  if (s.run_pixels < 1)
    throw SettingError(message("run_pixels must be at least 1, got ", s.run_pixels));
  if (s.winograd > 0 && std::ranges::find(kWinogradTiles, s.winograd) == std::end(kWinogradTiles))
    throw SettingError(message("winograd must be -1, 0, 5 or 6, got ", s.winograd));
}

}  // namespace

std::string label_text(const Program& program, const Label& label) {
  const std::string& name = program.names[static_cast<size_t>(label.name)];
  if (label.step == Label::kNone) return name;
  if (label.step == Label::kQuery) return "query " + name;
  return message("step ", label.step, " ", name);
}

Program write_program(const NetworkSpec& spec, const Settings& settings, const Poll& poll) {
  check_settings(settings);
  Program program;
  program.settings = settings;
  program.network = build_network(spec);
  for (const TensorSpec& tensor : program.network.tensors)
    program.outputs.push_back(has_output(settings, tensor) ? program.output_count++ : -1);
  program.input_numel = numel(program.network.value_shapes[0]);
  program.output_numel = numel(program.network.value_shapes[program.network.output]);
  program.target_numel = program.network.loss_op->reads_classes() ? 1 : program.output_numel;
  program.decisions.push_back(message("activations: ", decision_on_activations(settings)));
  const std::vector<bool> factored = choose_factored(program);
  choose_winograd(program);
  choose_moments(program);
  Writer(program, factored, poll).write();
  program.scratch_bytes = most_scratch(program);
  program.body_flops = total_flops(program.body) + total_flops(program.commit);
  return program;
}

}  // namespace fastmaml
