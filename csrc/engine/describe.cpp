#include "engine/describe.hpp"

#include <iomanip>
#include <sstream>

namespace fastmaml {
namespace {

constexpr const char* kKindNames[] = {
    "contract", "transpose", "pointwise", "batch_norm", "mse",  "cross_entropy", "bce_with_logits",
    "conv2d",   "permute",   "pool2d",    "group_norm", "taps", "patches",       "stem"};
static_assert(std::size(kKindNames) == kArgsCount);

void write_section(std::ostream& out, const Program& program, const char* title,
                   const std::vector<Instruction>& section) {
  out << title << ": " << section.size() << " instructions\n";
  for (const Instruction& instruction : section) {
    out << "  " << std::left << std::setw(14) << kind_name(instruction) << " "
        << label_text(program, instruction.label);
    if (auto* args = args_if<ContractArgs>(instruction.args)) {
      int64_t k = 0;
      for (const ContractTerm& term : args->terms) k += term.k;
      out << "  [" << args->m << " x " << k << " x " << args->n << "]"
          << (args->stack ? " stacked" : "") << (args->dot ? " inner" : "")
          << (args->gate == Gate::open ? "" : " + relu");
    }
    if (auto* args = args_if<ConvArgs>(instruction.args)) {
      out << "  " << args->images << " images, " << args->stencil->taps << " taps, " << args->k
          << " x " << args->n << (args->terms.size() > 1 ? " x 2" : "");
      if (args->splits > 1) out << ", in " << args->splits << " runs";
      if (args->moments) out << ", moments of " << args->moment_groups.count() << " groups";
      if (const int64_t tile = args->winograd.tile)
        out << ", Winograd F(" << tile << "x" << tile << ")";
    }
    if (auto* args = args_if<BatchNormArgs>(instruction.args)) {
      if (args->runs > 1)
        out << "  " << args->runs << " runs" << (args->partial ? ", their sums" : "");
      if (args->by_rows) out << "  rows shared in " << norm_blocks(*args) << " blocks";
    }
    out << "\n";
  }
}

void write_rest(std::ostream& out, const Program& program, int64_t tasks) {
  out << "contractions " << program.body_flops * static_cast<double>(tasks) / 1e9
      << " GFLOP a call\n";
  if (program.settings.tf32) out << "precision tf32 in linear layers and convolutions\n";
  for (const std::string& line : program.decisions) out << line << "\n";
  write_section(out, program, "prologue", program.prologue);
  write_section(out, program, "body", program.body);
  write_section(out, program, "commit", program.commit);
  write_section(out, program, "epilogue", program.epilogue);
}

}  // namespace

const char* kind_name(const Instruction& instruction) {
  return kKindNames[instruction.args.index()];
}

std::string describe_program(const Program& program, size_t program_bytes, const Layout& layout,
                             int64_t tasks) {
  const int64_t bytes = element_bytes(program.settings);
  std::ostringstream out;
  out << "instruction set " << instruction_set() << ", at most " << layout.threads << " threads, "
      << layout.lanes << " lanes\n"
      << tasks << " tasks in rounds of " << layout.round << ", groups of up to " << layout.group
      << "\n"
      << "workspace " << layout.total << " bytes: " << program.keep.elements * bytes << " kept and "
      << program.transient.elements * bytes << " transient for each task, "
      << program.shared.elements * bytes << " shared\n"
      << "program " << program_bytes << " bytes\n";
  write_rest(out, program, tasks);
  return out.str();
}

std::string describe_device_program(const Program& program, const DeviceCost& cost, int64_t tasks,
                                    size_t table_bytes, int64_t shared_limit) {
  std::ostringstream out;
  const bool resident = cost.obstacle.empty();
  out << "executor cuda " << (resident ? "resident: " : "graph: ") << cost.launches
      << " launch a call";
  if (!resident) out << ", of " << cost.kernels << " kernels\nnot resident: " << cost.obstacle;
  out << "\n";
  out << "a resident block needs " << cost.block_bytes << " bytes of shared memory, may have "
      << shared_limit << "\n"
      << tasks << " tasks in " << cost.rounds << (cost.rounds == 1 ? " round" : " rounds") << "\n"
      << "workspace " << cost.workspace_bytes << " bytes, tables " << table_bytes << " bytes\n"
      << "global memory " << cost.bytes / 1e6 << " MB a call, each array once for each kernel\n";
  write_rest(out, program, tasks);
  return out.str();
}

}  // namespace fastmaml
