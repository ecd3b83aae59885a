// The program of one task: a list of instructions over operands, in four sections.
//
//   prologue   once per call, all threads together (transposed theta, zeroed gradients)
//   body       per task: K inner steps, the query pass (of a curve: before each step, too), sweep
//   commit     once per round of tasks, all threads together: sums over tasks into the gradients
//   epilogue   once per call, all threads together: gradients to torch's layout
#pragma once

#include <string>
#include <vector>

#include "fastmaml.hpp"
#include "ops/args.hpp"
#include "plan/network.hpp"

namespace fastmaml {

inline int64_t element_bytes(const Settings& settings) {
  return settings.dtype == Dtype::f32 ? 4 : 8;
}

// How often a program passes over the query set.
inline int64_t query_passes(const Settings& settings) {
  if (settings.mode == Mode::curve) return int64_t{settings.inner_steps} + 1;
  return settings.mode == Mode::adapt ? 0 : 1;
}

// What an instruction is for: "fc1.backward_jvp", and of which inner step or set. The names repeat
// from step to step, and the program has each once.
struct Label {
  static constexpr int32_t kQuery = -1, kNone = -2;  // instead of a step
  int32_t name = 0;                                  // index into Program::names
  int32_t step = kNone;
};

struct Instruction {
  Args args;
  Label label;
};

struct Arena {
  int64_t elements = 0;  // for one task
};

struct Program {
  Settings settings;
  Network network;
  std::vector<Instruction> prologue, body, commit, epilogue;
  Arena transient, keep, shared;
  std::vector<int> outputs;  // by tensor: its position among those that have one, or -1
  int output_count = 0;
  int64_t output_numel = 0;  // of one row of logits
  int64_t input_numel = 0;   // of one row of x
  int64_t target_numel = 0;  // of one row of y (1 for class indices)
  bool any_factored = false;
  double body_flops = 0;               // contractions of one task, commit included
  size_t scratch_bytes = 0;            // of a thread, for the instruction that asks for most
  std::vector<std::string> decisions;  // one line for each choice, for describe
  std::vector<std::string> names;      // of labels
};

// "step 0 fc1.backward_jvp", for describe and profile.
std::string label_text(const Program& program, const Label& label);

Program write_program(const NetworkSpec& spec, const Settings& settings, const Poll& poll);

}  // namespace fastmaml
