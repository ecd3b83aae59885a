#include "ops/args.hpp"

namespace fastmaml {

const char* kind_name(const Args& args) {
  return visit_args([](const auto& any) { return any.kName; }, args);
}

bool is_resident(const Args& args) {
  return visit_args([](const auto& any) { return any.kResident; }, args);
}

void settle(Args& args) {
  visit_args([](auto& any) { any.settle(); }, args);
}

double flops(const Args& args) {
  return visit_args([](const auto& any) { return any.flops(); }, args);
}

size_t scratch_bytes(const Args& args, int64_t number) {
  return visit_args([&](const auto& any) { return any.scratch_bytes(number); }, args);
}

int phases(const Args& args) {
  return visit_args([](const auto& any) { return any.phases(); }, args);
}

InPlace in_place(const Args& args) {
  return visit_args([](const auto& any) { return any.in_place(); }, args);
}

std::string details(const Args& args) {
  return visit_args([](const auto& any) { return any.details(); }, args);
}

void visit_operands(Args& args, const std::function<void(Operand&, Amount, bool)>& to) {
  const auto present = [&](Operand& operand, Amount amount, bool written) {
    if (operand) to(operand, amount, written);
  };
  visit_args([&](auto& any) { any.visit(present); }, args);
}

// Cards lend their operands for writing; who may not write is lent them for reading.
void visit_operands(const Args& args, const std::function<void(const Operand&, Amount, bool)>& to) {
  visit_operands(const_cast<Args&>(args), [&](Operand& operand, Amount amount, bool written) {
    to(operand, amount, written);
  });
}

}  // namespace fastmaml
