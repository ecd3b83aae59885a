#include "plan/describe.hpp"

#include <iomanip>
#include <sstream>

#include "cpu/executor.hpp"

namespace fastmaml {
namespace {

const char* kKindNames[] = {
    "contract", "transpose", "pointwise", "batch_norm", "mse",  "cross_entropy", "bce_with_logits",
    "conv2d",   "permute",   "pool2d",    "group_norm", "taps", "patches",       "stem"};
static_assert(std::size(kKindNames) == std::variant_size_v<Args>);

void write_section(std::ostream& out, const char* title, const std::vector<Instruction>& section) {
  out << title << ": " << section.size() << " instructions\n";
  for (const Instruction& instruction : section) {
    out << "  " << std::left << std::setw(14) << kKindNames[instruction.args.index()] << " "
        << instruction.label;
    if (auto* args = std::get_if<ContractArgs>(&instruction.args)) {
      int64_t k = 0;
      for (const ContractTerm& term : args->terms) k += term.k;
      out << "  [" << args->m << " x " << k << " x " << args->n << "]"
          << (args->stack ? " stacked" : "") << (args->dot ? " inner" : "")
          << (args->gate == Gate::open ? "" : " + relu");
    }
    if (auto* args = std::get_if<ConvArgs>(&instruction.args))
      out << "  " << args->images << " images, " << args->stencil->taps << " taps, " << args->k
          << " x " << args->n << (args->terms.size() > 1 ? " x 2" : "")
          << (args->winograd ? ", Winograd" : "");
    out << "\n";
  }
}

}  // namespace

std::string describe_program(const Program& program, int64_t tasks, int threads, int lanes) {
  const Layout layout = plan_layout(program, tasks, threads, lanes);
  const int64_t bytes = element_bytes(program.settings);
  std::ostringstream out;
  out << "instruction set " << instruction_set() << ", " << layout.threads << " threads, "
      << layout.lanes << " lanes of " << layout.team << "\n"
      << tasks << " tasks in rounds of " << layout.round << ", groups of " << layout.group << "\n"
      << "workspace " << layout.total << " bytes: " << program.keep.elements * bytes << " kept and "
      << program.transient.elements * bytes << " transient for each task, "
      << program.shared.elements * bytes << " shared\n"
      << "contractions " << program.body_flops * static_cast<double>(tasks) / 1e9
      << " GFLOP a call\n";
  if (program.settings.tf32) out << "precision tf32 in linear layers and convolutions\n";
  for (const std::string& line : program.decisions) out << line << "\n";
  write_section(out, "prologue", program.prologue);
  write_section(out, "body", program.body);
  write_section(out, "commit", program.commit);
  write_section(out, "epilogue", program.epilogue);
  return out.str();
}

}  // namespace fastmaml
