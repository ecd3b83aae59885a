// batch_norm: each feature normalised over the rows of one task.        x, y [R, F]; the rest [F]
//
//   mean = mean_rows x,  var = mean_rows (x - mean)^2,  rstd = 1 / sqrt(var + eps)
//   h = (x - mean) rstd
//
//   forward        y = weight h + bias
//   backward       m1 = mean_rows y_bar,   m2 = mean_rows y_bar h
//                  x_bar += weight rstd (y_bar - m1 - h m2)
//                  weight_bar = R m2,   bias_bar = R m1
//   forward_jvp    n1 = mean_rows x_dot,   n2 = mean_rows x_dot h
//                  h_dot = rstd (x_dot - n1 - h n2),   rstd_dot = -rstd^2 n2
//                  y_dot = weight h_dot + weight_dot h + bias_dot
//   backward_jvp   m1_dot = mean_rows y_bar_dot,   m2_dot = mean_rows (y_bar_dot h + y_bar h_dot)
//                  x_bar_dot += (weight rstd)_dot (y_bar - m1 - h m2)
//                             + weight rstd (y_bar_dot - m1_dot - h_dot m2 - h m2_dot)
//                  weight_bar_dot = R m2_dot,   bias_bar_dot = R m1_dot
//
// Where the convolution that wrote x left moments of it (ops/moments), mean and var are those,
// merged. With the running statistics (batch_stats = 0) mean and rstd are constants: the same
// formulas, with m1 = m2 = n1 = n2 = 0 in x_bar, y_dot and x_bar_dot (and m1_dot = m2_dot = 0
// there). Without affine parameters weight is 1 and bias 0; a frozen one has neither _bar nor _dot.
// Parameters: weight, bias, running_mean, running_var. Attributes: eps, batch_stats; of what was
// taken in (plan/rewrite.hpp), a max-pool's kernel_h and kernel_w, then a relu's `below`, the slope
// below 0. y is what the last of them gives. Under a pool, the tap of each maximum says which row a
// cotangent of y belongs to, and there is none where the relu is flat; under a relu alone, its
// slope follows from x again.
#pragma once

#include "ops/card.hpp"
#include "ops/moments/moments.hpp"
#include "ops/op.hpp"
#include "ops/pass_kind.hpp"
#include "ops/taps/taps.hpp"

namespace fastmaml {

// What follows the norm inside the same instruction.
enum class Activation : int32_t { none, relu, leaky_relu };

struct BatchNormArgs : Card {
  static constexpr const char* kName = "batch_norm";
  static constexpr bool kResident = true;

  PassKind pass = PassKind::forward;
  bool batch_stats = true;
  double eps = 1e-5;
  int64_t rows = 0, features = 0;  // R, F
  Operand x;                       // in [R, F]: unless sums are all it takes
  Operand weight;                  // in [F]: always, absent means 1
  Operand bias;                    // in [F]: forward, or always with an activation; absent means 0
  Operand running_mean;            // in [F]: forward, unless batch_stats
  Operand running_var;             // in [F]: likewise
  Operand moments;                 // in [groups, 2, F]: forward with batch_stats; absent: of x
  MomentGroups moment_groups;      // their rows
  Operand sums;  // in [runs, 2, F]: the sums of the passes after forward; absent: of x and y_bar
  // On devices many rows fall into runs that blocks of their own take. A `partial` instruction
  // before the pass leaves moments (forward) or sums of each run, out of it then, and nothing else.
  int64_t runs = 1;
  bool partial = false;
  bool by_rows = false;  // on the CPU: threads of a team share rows rather than features
  Operand y_bar;         // in [R, F]: backward, backward_jvp
  Operand x_dot;         // in [R, F]: tangent passes; absent when x does not move
  Operand weight_dot;    // in [F]: tangent passes; absent when frozen
  Operand bias_dot;      // in [F]: forward_jvp; absent when frozen
  Operand y_bar_dot;     // in [R, F]: backward_jvp
  Operand stats;         // [2, F] mean, rstd: out of forward, in of the others
  Operand m;             // [2, F] m1, m2: out of backward, in of backward_jvp
  Operand n;             // [2, F] n1, n2: out of forward_jvp, in of backward_jvp
  PoolSize pool;         // when given, y, y_bar, y_dot, y_bar_dot are [windows, F]
  Operand tap;           // [windows, F] bytes, -1 for none: out of forward, in of others
  Activation activation = Activation::none;
  double below = 0;              // its slope below 0
  Operand cin;                   // in [R, F]: what out starts from; absent means 0
  Operand out;                   // out [R, F]: y, x_bar, y_dot, x_bar_dot; absent: not wanted
  Operand weight_cin, bias_cin;  // in [F]: what the two below start from; absent means 0
  Operand weight_out, bias_out;  // out [F]: cin + scale * bar (or bar_dot); absent: frozen
  int weight_scale = Scalars::kOne, bias_scale = Scalars::kOne;  // scalar slots

  // Rows that parts share: sums of blocks, features of all blocks' sums, rows; see Context.
  int phases() const { return by_rows ? 3 : 1; }
  // That of a team whose threads share rows.
  size_t scratch_bytes(int64_t number) const;
  InPlace in_place() const;
  std::string details() const;

  template <class Visit>
  void visit(Visit&& to) {
    const int64_t all = rows * features;
    const int64_t y = pool ? all / (pool.in_h * pool.in_w) * (pool.out_h * pool.out_w) : all;
    for (Operand* o : {&x, &x_dot, &cin}) to(*o, all, false);
    for (Operand* o : {&y_bar, &y_bar_dot}) to(*o, y, false);
    for (Operand* o : {&weight, &bias, &running_mean, &running_var, &weight_dot, &bias_dot,
                       &weight_cin, &bias_cin})
      to(*o, features, false);
    const int64_t groups = moments ? moment_groups.count() : 0;
    to(moments, groups * 2 * features, partial && pass == PassKind::forward);
    to(sums, runs * 2 * features, partial);
    to(stats, 2 * features, pass == PassKind::forward);
    to(m, 2 * features, pass == PassKind::backward);
    to(n, 2 * features, pass == PassKind::forward_jvp);
    to(tap, tap_bytes(y), pass == PassKind::forward);
    to(out, goes_forward(pass) ? y : all, true);
    to(weight_out, features, true), to(bias_out, features, true);
  }
};

// The blocks of rows that the CPU sums one by one; under a pool, strips of images.
constexpr int64_t norm_blocks(const BatchNormArgs& args) {
  if (args.pool) return args.rows / (args.pool.in_h * args.pool.in_w) * args.pool.strips();
  const int64_t each = cpu_moment_rows(args.features);
  return (args.rows + each - 1) / each;
}
// Rows of sums in scratch, and numbers of one: whole cache lines.
constexpr int64_t kNormRows = 3;
constexpr int64_t norm_line(int64_t features, int64_t bytes) {
  const int64_t line = 64 / bytes;
  return (features + line - 1) / line * line;
}

class BatchNorm final : public Op {
 public:
  static constexpr const char* kName = "batch_norm";
  using KernelArgs = BatchNormArgs;

  MemoryOrder order(const Node& node) const override {
    return node.shape.size() == 3 ? MemoryOrder::channels_last : MemoryOrder::torch;
  }
  void check(const Node& node, const std::vector<TensorSpec>& tensors) const override;
  void forward(Emit& emit, const Node& node) const override;
  void backward(Emit& emit, const Node& node) const override;
  void forward_jvp(Emit& emit, const Node& node) const override;
  void backward_jvp(Emit& emit, const Node& node) const override;
};

}  // namespace fastmaml
