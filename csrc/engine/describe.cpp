#include "engine/describe.hpp"

#include <iomanip>
#include <sstream>

#include "machine.hpp"

namespace fastmaml {
namespace {

void write_section(std::ostream& out, const Program& program, const char* title,
                   const std::vector<Instruction>& section) {
  out << title << ": " << section.size() << " instructions\n";
  for (const Instruction& instruction : section)
    out << "  " << std::left << std::setw(14) << kind_name(instruction.args) << " "
        << label_text(program, instruction.label) << details(instruction.args) << "\n";
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
