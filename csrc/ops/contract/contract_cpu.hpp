// The contraction on one core: which form an instruction takes, task by task or stacked.
//
// Each output element is one chain of multiply-adds over its terms, in order, whatever tile it
// falls into and whichever thread computes it: that is what makes results bitwise independent of
// threads and of neighbouring tasks.
#pragma once

#include "ops/contract/contract.hpp"
#include "ops/contract/contract_inner_cpu.hpp"
#include "ops/contract/contract_outer_cpu.hpp"

namespace fastmaml::FASTMAML_ISA {

// --- sums of long rows ----------------------------------------------------------------------------

// m == 1 and k == 1 everywhere: c = cin + scale * sum of multiples of rows, one pass over memory.
template <class T>
void row_sum(const Contraction<T>& p, const Context& context) {
  const Share share(context, p.n, kWidth<T>);
  const bool chained = p.cin && p.scale == T(1);
  auto column = [&](auto read, int64_t j) __attribute__((always_inline)) {
    Vec<T> value = chained ? read(p.cin + j) : Vec<T>{};
    for (int s = 0; s < p.count; ++s)
      value += splat(p.segments[s].a[0]) * read(p.segments[s].b + j);
    if (p.scale != T(1)) {
      value *= splat(p.scale);
      if (p.cin) value += read(p.cin + j);
    }
    return value;
  };
  each_vector<T>(
      share.begin, share.end,
      [&](int64_t j) { store(p.c + j, column([](const T* q) { return load(q); }, j)); },
      [&](int64_t j, const Tail<T>& tail) {
        tail.store(p.c + j, column([&](const T* q) { return tail.load(q); }, j));
      });
}

// --- the instruction -----------------------------------------------------------------------------

// One instruction on this thread: its terms for the task at hand, and how its problems are cut.
template <class T>
class Contractor {
 public:
  Contractor(const ContractArgs& args, const Context& context, int64_t m, int64_t flatten)
      : args_(args), context_(context), flatten_(flatten), tiling_(m, args.n, context) {
    p_.segments = segments_;
    p_.m = m, p_.n = args.n, p_.c_row = args.c_row;
    p_.scale = static_cast<const T*>(context.scalars)[args.scale];
  }

  // Terms come in runs of at most kMaxSegments; later runs start from what the earlier left in c.
  void task(int64_t g) {
    p_.c = address<T>(context_, args_.c, g), p_.c_row = args_.c_row;
    p_.cin = args_.cin ? address<T>(context_, args_.cin, g) : nullptr, p_.cin_row = args_.cin_row;
    p_.count = 0;
    bool written = false, rows = p_.m == 1;
    for (const ContractTerm& term : args_.terms) {
      if (p_.count == kMaxSegments) written = true, flush(rows), rows = p_.m == 1;
      Segment<T>& segment = segments_[p_.count];
      if (!read(term, g, segment)) continue;
      rows = rows && segment.k == 1;
      ++p_.count;
    }
    if (p_.count > 0 || (!written && p_.c != p_.cin)) flush(rows);
  }

 private:
  // False while the term's gate is shut.
  bool read(const ContractTerm& term, int64_t g, Segment<T>& out) const {
    if (term.gate >= 0 && static_cast<const T*>(context_.scalars)[term.gate] == T(0)) return false;
    out = {address<T>(context_, term.a, g), term.a_row, term.a_col,
           address<T>(context_, term.b, g), term.b_row, term.b_col, term.k};
    if (flatten_ > 1) {
      // The sum runs over the tasks too: their rows touch, so l simply runs on.
      if (term.k == 1) out.a_col = term.a.stride, out.b_row = term.b.stride;
      out.k *= flatten_;
    }
    return true;
  }

  void flush(bool rows) {
    if (args_.dot)
      inner_contract(p_, context_);
    else if (rows && p_.n > kVectorTile * kWidth<T>)
      row_sum(p_, context_);
    else
      outer_contract(p_, tiling_, context_);
    p_.cin = p_.c, p_.cin_row = p_.c_row, p_.count = 0;
  }

  const ContractArgs& args_;
  const Context& context_;
  const int64_t flatten_;
  const Tiling<T> tiling_;
  Contraction<T> p_{};
  Segment<T> segments_[kMaxSegments];
};

template <class T>
void run_kernel(const ContractArgs& args, const Context& context) {
  if (args.c.stride == 0) return Contractor<T>(args, context, args.m, context.tasks).task(0);
  if (args.stack) return Contractor<T>(args, context, args.m * context.tasks, 1).task(0);
  Contractor<T> contractor(args, context, args.m, 1);
  for (int64_t g = 0; g < context.tasks; ++g) contractor.task(g);
}

}  // namespace fastmaml::FASTMAML_ISA
