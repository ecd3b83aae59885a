// What the engine asks of an instruction's arguments. Each struct of them derives from `Card` and
// says what is other for it; of its own every one has
//
//   kName         how describe and profile call the kind of instruction
//   visit(to)     to(operand, amount, written) for every operand, absent ones too
//   holds(hold)   where it holds memory: hold(member) for each vector of its own, and for each
//                 shared pointer to what others hold with it, which has a `holds` likewise
//   Device, lower(tables)   where it holds pointers: what device code reads instead, and how that
//                 is put into the program's tables, see cuda/lower.hpp
//
// Tables by kind of instruction follow from these, see ops/args.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "ops/operand.hpp"

namespace fastmaml {

// How much of an operand an instruction touches in one task, each item counted once.
struct Amount {
  int64_t count = 0;
  int64_t item = 0;  // bytes of an item, 0 for a number of the program's dtype

  constexpr Amount(int64_t numbers) : count(numbers) {}
  constexpr Amount(int64_t items, int64_t bytes) : count(items), item(bytes) {}
  constexpr int64_t bytes(int64_t number) const { return count * (item > 0 ? item : number); }
};
constexpr Amount doubles(int64_t count) { return {count, 8}; }
constexpr Amount tap_bytes(int64_t count) { return {count, 1}; }
constexpr Amount class_indices(int64_t count) { return {count, 8}; }

// What an instruction that works number by number may write its output over: operands laid out as
// the output, of which each number is read before the output's own is written and by nothing else.
struct InPlace {
  const Operand* out = nullptr;           // null: over none
  std::array<const Operand*, 4> in = {};  // the first choice first; null: there are fewer
};

struct Card {
  // Whether the resident kernel can run it. Those can that multilayer perceptrons are made of; more
  // would only weigh that kernel down.
  static constexpr bool kResident = false;

  // Called once, by the planner, after which the kernels trust the fields. Programs are kept, and
  // vectors are most of them: none keeps room for more.
  void settle() {}
  // Multiply-adds of one task, counted as two: contractions only.
  double flops() const { return 0; }
  // Of a thread on the CPU; `number`: bytes of one.
  size_t scratch_bytes(int64_t /*number*/) const { return 0; }
  // How often the CPU's threads run it one after another, see Context.
  int phases() const { return 1; }
  InPlace in_place() const { return {}; }
  // What describe says of it behind its label.
  std::string details() const { return {}; }
};

}  // namespace fastmaml
