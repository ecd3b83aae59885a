// The tensors over the course of a program: versions phi[k], the sweep's v and its
// direction u, and what the commit makes of them. Knows no layer, and no pass but by what it is
// told.
//
// An adapted tensor that is dense has a place in each of the blocks phi[k], v and u; one that is
// trained and not adapted is theta in every version, and has a place in v. A factored one has none:
// W[k] is W0 and the factors of earlier steps, v a list of factors that the sweep appends to.
#pragma once

#include <vector>

#include "ops/operand.hpp"
#include "plan/draft.hpp"
#include "plan/layouts.hpp"

namespace fastmaml {

// Where a contribution goes: out = cin + scale * contribution. `cin` is absent for the first one.
struct Sink {
  Operand out, cin;
  int scale = Scalars::kOne;
};

// One outer product of a factored weight: sum over rows of a[row, :]^T b[row, :].
struct Factor {
  Operand a;  // [rows, O] cotangent of y
  Operand b;  // [rows, I] input
  int64_t rows = 0;
  int step = 0;               // of the pass that made it
  int scale = Scalars::kOne;  // scalar slot of its coefficient
};

class Weights {
 public:
  // `factored` by tensor. Writes the packed tensors' copies into the prologue.
  Weights(Draft& draft, std::vector<bool> factored);

  bool factored(int tensor) const { return factored_[tensor]; }

  // What passes read: the current version (theta where no step moves it), u, and both transposed,
  // which are made on first use.
  Operand now(int tensor) const { return phi_[version_][tensor].w; }
  Operand now_t(int tensor);
  Operand direction(int tensor) const { return direction_[tensor].w; }
  Operand direction_t(int tensor) { return transposed(direction_[tensor], tensor); }
  // Of factored tensors: those of W[k] - W0, and of u.
  const std::vector<Factor>& update_factors(int tensor) const { return update_factors_[tensor]; }
  const std::vector<Factor>& direction_factors(int tensor) const {
    static const std::vector<Factor> kNone;
    return network_.tensors[tensor].adapted ? sweep_factors_[tensor] : kNone;
  }

  // Where cotangents go: into phi[step + 1], or into v. Where rates are learned the former go into
  // g[step], which the sweep reads.
  Sink update(int tensor, int step);
  Sink cotangent(int tensor);
  // A pass must not see its own factors (a weight may be used twice): they wait for its end.
  void add_factor(int tensor, const Factor& factor) { waiting_[tensor].push_back(factor); }

  // The course of the program.
  void begin_update();            // phi[k + 1] starts to be written
  void end_update();              // and is the current version
  void begin_query();             // v starts
  void end_cotangents();          // v has the factors that waited
  void write_rate_dot(int step);  // <v, g[step]>
  void begin_sweep(int step);     // back to phi[step]; u = -alpha[step] v
  void write_commit();            // sums over tasks into the gradients
  void write_fast_weights();      // the current version into the outputs of Mode::adapt

 private:
  struct Version {
    Operand w, w_t;
  };
  Operand theta(int tensor) const;   // as the caller's tensor
  Operand output(int tensor) const;  // its meta-gradient or fast weights
  Operand transposed(Version& version, int tensor);
  Operand transposed_packed(Version& version, int tensor);
  Operand dense(const Operand& block, int tensor) const { return block.at(offset_[tensor]); }
  void lay_out();
  void write_packed();
  void move_dense(int step);
  void add_dense_dot(int tensor, int step, ContractArgs& dot);
  void add_factored_dot(int tensor, int step, ContractArgs& dot);

  Draft& draft_;
  const Network& network_;
  const Layouts layouts_;
  const std::vector<bool> factored_;       // by tensor, as all that follows
  std::vector<std::vector<Version>> phi_;  // phi_[k][tensor]
  int version_ = 0;                        // k of the current one
  std::vector<Version> direction_;         // u
  std::vector<int64_t> offset_;            // of each dense tensor in a block, else -1
  int64_t dense_numel_ = 0;                // of a block: the adapted tensors
  int64_t v_numel_ = 0;                    // of v's, where those that are trained alone follow
  Operand next_block_, v_block_, u_block_;
  // Of learned rates: g[step], and which tensors it has.
  struct Gradient {
    Operand block;
    std::vector<bool> written;
  };
  std::vector<Gradient> gradients_;
  std::vector<bool> next_written_, v_written_;
  std::vector<std::vector<Factor>> update_factors_, sweep_factors_, waiting_;
};

}  // namespace fastmaml
