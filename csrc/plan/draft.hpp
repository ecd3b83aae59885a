// A program being written: its sections, and the buffers that instructions name before these have a
// place in an arena.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/poll.hpp"
#include "ops/args.hpp"
#include "ops/operand.hpp"
#include "plan/program.hpp"

namespace fastmaml {

class Draft {
 public:
  explicit Draft(Program& program) : program_(program) {}
  const Settings& settings() const { return program_.settings; }
  const Network& network() const { return program_.network; }
  int64_t input_numel() const { return program_.input_numel; }    // of one row of x
  int64_t target_numel() const { return program_.target_numel; }  // of one row of y
  int64_t output_numel() const { return program_.output_numel; }  // of one row of logits
  int output(int tensor) const { return program_.outputs[tensor]; }

  // Of the instructions that follow.
  void label(const std::string& name, int step = Label::kNone);
  // Each appends to a section; SettingError where the program has outgrown Settings::most_bytes.
  void prologue(Args args) { append(program_.prologue, std::move(args)); }
  void body(Args args) { append(program_.body, std::move(args)); }
  void commit(Args args) { append(program_.commit, std::move(args)); }
  void epilogue(Args args) { append(program_.epilogue, std::move(args)); }

  // How many runs a device cuts a sum over so many pixels into, none of them empty, where each is
  // work for so many blocks. On the CPU: 1.
  int64_t runs(int64_t pixels, int64_t blocks = 1) const;

  // A new one of `numel` numbers for each task, or, shared, for the call.
  Operand buffer(int64_t numel, bool shared = false);
  // Fuses what can be, and gives the buffers their places. The last that happens to a program.
  void place(Poller& poll);

 private:
  struct Buffer {
    int64_t numel = 0;
    bool shared = false;
  };
  void append(std::vector<Instruction>& section, Args args);

  Program& program_;
  std::vector<Buffer> buffers_;
  int64_t bytes_ = 0;  // of the instructions so far
  Label label_;
  std::map<std::string, int32_t> names_;  // of labels, by what Program::names says
};

}  // namespace fastmaml
