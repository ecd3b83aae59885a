// What an op's pass sees of the program being written.
//
// A pass (one inner step on the support set, or the query pass) owns its values' operands. Operands
// are handed out by role: y, y_bar (cotangent), y_dot (tangent), y_bar_dot. Outputs that several
// contributions share are handed out as a Sink: where to write, and what to start from.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fastmaml.hpp"
#include "ops/args.hpp"
#include "ops/op.hpp"
#include "ops/window/stencil.hpp"
#include "plan/network.hpp"
#include "plan/program.hpp"

namespace fastmaml {

// Where a contribution goes: out = cin + scale * contribution. `cin` is absent for the first one.
struct Sink {
  Operand out, cin;
  int scale = Scalars::kOne;
};

// One pass over the network: its rows and the operands of its values, by canonical value id.
struct Pass {
  int step = 0;  // inner step k; K for the query pass
  bool query = false;
  int64_t rows = 0;
  bool again = false;  // an earlier pass over the set has made what depends on no trainable tensor
  Operand targets;
  std::vector<Operand> y, y_bar, y_dot, y_bar_dot;
  std::map<int, Moments> moments;  // of the values whose makers leave them
  std::map<std::pair<const Node*, int>, Operand> saved;
};

// One outer product of a factored weight: sum over rows of a[row, :]^T b[row, :].
struct Factor {
  Operand a;  // [rows, O] cotangent of y
  Operand b;  // [rows, I] input
  int64_t rows = 0;
  int scale = Scalars::kOne;  // scalar slot of its coefficient
  int gate = -1;              // scalar slot; left out while that scalar is 0
};

class Emit {
 public:
  Emit(Program& program, const std::vector<bool>& factored);

  // The passes' view ---------------------------------------------------------------------------
  int64_t rows() const { return pass_->rows; }
  const Settings& settings() const { return program_.settings; }
  int64_t element_bytes() const { return fastmaml::element_bytes(program_.settings); }
  Operand x(const Node& node, int i) const { return pass_->y[node.inputs[i]]; }
  Operand y(const Node& node);  // made on first use
  // Of values that the set has once, not once a row.
  Operand y_of_set(const Node& node, int64_t numel);
  bool active(const Node& node, int i) const { return network_.active[node.inputs[i]]; }
  Operand y_bar(const Node& node) const { return pass_->y_bar[node.output]; }
  Operand x_dot(const Node& node, int i) const { return pass_->y_dot[node.inputs[i]]; }
  Operand y_dot(const Node& node);
  Operand y_bar_dot(const Node& node) const { return pass_->y_bar_dot[node.output]; }
  Sink x_bar(const Node& node, int i);      // call once for each contribution
  Sink x_bar_dot(const Node& node, int i);  // likewise
  // A buffer of `numel` numbers that belongs to (pass, node, slot): made on first use.
  Operand saved(const Node& node, int slot, int64_t numel);
  Operand scratch(int64_t numel);
  // What a node's instructions share in all passes, such as a pool's maps: made on first use.
  template <class Make>
  auto once(const Node& node, int slot, Make&& make) {
    using Made = decltype(make());
    std::shared_ptr<const void>& made = made_[{&node, slot}];
    if (!made) made = std::make_shared<const Made>(make());
    return std::static_pointer_cast<const Made>(made);
  }
  // The map of a window's pixels, to its output or back: one for all layers of this window.
  std::shared_ptr<const Stencil> gathered(const Window& window);
  std::shared_ptr<const Stencil> scattered(const Window& window);
  // How many runs a device cuts a sum over so many pixels into, none of them empty, where each is
  // work for so many blocks. On the CPU: 1.
  int64_t runs(int64_t pixels, int64_t blocks = 1) const {
    // Each costs a write and a read of the sums, and a task need not fill a device twice.
    constexpr int64_t kMostRuns = 64, kMostBlocks = 256;
    const int64_t wanted = settings().device ? pixels / settings().run_pixels : 1;
    const int64_t most = std::min(kMostRuns, kMostBlocks / blocks);
    const int64_t runs = std::max<int64_t>(1, std::min(wanted, most));
    const int64_t run = (pixels + runs - 1) / runs;
    return (pixels + run - 1) / run;
  }
  // Those that the maker of input i left of it: absent where it did not.
  Moments moments(const Node& node, int i) const;
  // Where the node leaves those of its output.
  Operand leave_moments(const Node& node, const MomentGroups& groups);

  bool trainable(const Node& node, size_t i) const;  // whether a cotangent is wanted
  bool factored(const Node& node, size_t i) const;
  Operand param(const Node& node, size_t i);        // current version: theta or phi[k]
  Operand param_t(const Node& node, size_t i);      // the same, transposed (2-d)
  Operand param_dot(const Node& node, size_t i);    // u
  Operand param_dot_t(const Node& node, size_t i);  // u, transposed
  // Where p_bar (backward: into phi[k+1] or v) or p_bar_dot (into v) of this parameter goes.
  Sink param_bar(const Node& node, size_t i);
  // Factored weights: the factors of W[k] - W0 and of v, and a new one for the current phase.
  const std::vector<Factor>& update_factors(const Node& node, size_t i);
  const std::vector<Factor>& sweep_factors(const Node& node, size_t i);
  void add_factor(const Node& node, size_t i, const Operand& a, const Operand& b, int64_t rows);

  Operand targets() const { return pass_->targets; }
  Operand loss() const;
  Operand loss_dot() const;
  int seed() const { return pass_->query ? Scalars::kSeed : Scalars::kOne; }
  int share() const { return pass_->query ? Scalars::kQueryShare : Scalars::kSupportShare; }
  int sigma() const { return Scalars::sigma(pass_->step); }

  void add(Args args);  // appends an instruction to the current section

  // The program writer's view ------------------------------------------------------------------
  enum class Phase { forward, backward, forward_jvp, backward_jvp };
  void enter(Pass& pass, Phase phase) { pass_ = &pass, phase_ = phase; }
  // Of the instructions that follow.
  void label(const std::string& name, int step = Label::kNone);
  void prologue(Args args);
  void commit(Args args);
  void epilogue(Args args);
  Pass make_pass(int step, bool query);
  void begin_update();                     // phi[k + 1] starts to be written
  void end_update();                       // phi[k + 1] is the current version
  void begin_query();                      // v starts
  void begin_sweep(int step);              // back to phi[k]; u = sigma v
  void replay(bool on) { replays_ = on; }  // passes run again for their values alone
  void end_sweep();
  void write_commit();        // sums over tasks into the gradients
  void write_fast_weights();  // phi[K] to the outputs of Mode::adapt
  void place(Poller& poll);   // virtual buffers -> arenas

 private:
  struct Version {
    Operand w, w_t;
  };
  struct Buffer {
    int64_t numel = 0;
    bool shared = false;
  };
  // A convolution's weight [G O, I, taps] lies packed as [G, taps, I, O]. Empty for other tensors.
  struct Packing {
    int64_t groups = 0, taps = 0, in = 0, out = 0;
    explicit operator bool() const { return groups > 0; }
  };
  void append(std::vector<Instruction>& section, Args args);
  void find_packings();
  PermuteArgs pack(int tensor, bool transposed) const;
  PermuteArgs unpack(int tensor) const;
  Operand buffer(int64_t numel, bool shared = false);
  Operand transposed(Version& version, int tensor);
  Operand transposed_packed(Version& version, int tensor);
  Operand theta(int tensor) const;   // as the caller's tensor
  Operand output(int tensor) const;  // its meta-gradient or fast weights
  void dense_layout();
  Operand dense(const Operand& block, int tensor) const;
  int tensor(const Node& node, size_t i) const { return node.params[i]; }

  Program& program_;
  const Network& network_;
  std::vector<bool> factored_;  // by tensor
  std::vector<Buffer> buffers_;
  std::vector<std::vector<Version>> phi_;  // phi_[k][tensor]
  int version_ = 0;                        // k of the version that `param` hands out
  std::vector<Packing> packing_;           // by tensor
  std::vector<Version> direction_;         // u by tensor
  std::vector<int64_t> dense_offset_;      // of each dense trainable tensor in a block
  int64_t dense_numel_ = 0;
  Operand next_block_, v_block_, u_block_;
  std::vector<bool> next_written_, v_written_;
  // By tensor. A pass must not see its own factors (a weight may be used twice): they wait.
  std::vector<std::vector<Factor>> update_factors_, sweep_factors_, waiting_;
  std::map<std::pair<const Node*, int>, std::shared_ptr<const void>> made_;
  std::map<Window, std::shared_ptr<const Stencil>> gathered_, scattered_;
  bool replays_ = false;
  int64_t bytes_ = 0;  // of the instructions so far
  Pass* pass_ = nullptr;
  Phase phase_ = Phase::forward;
  Label label_;
  std::map<std::string, int32_t> names_;  // of labels, by what Program::names says
};

}  // namespace fastmaml
