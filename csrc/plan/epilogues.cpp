#include "plan/epilogues.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "ops/conv2d/conv2d.hpp"

namespace fastmaml {
namespace {

// Whether a norm takes its batch statistics from what the convolution writes, pixel by pixel.
bool feeds_norm(const Network& network, const Readers& readers, const Node& conv) {
  return std::ranges::any_of(readers[conv.output], [&](int reader) {
    const Node& node = network.nodes[reader];
    return node.op_name == "batch_norm" && node.attr("batch_stats", 1) != 0 &&
           node.inputs[0] == conv.output && node.in_shapes[0] == conv.shape;
  });
}

}  // namespace

void choose_moments(Program& program) {
  const Settings& s = program.settings;
  const Readers readers = readers_of(program.network);
  for (Node& node : program.network.nodes) {
    if (node.op_name != "conv2d" || !feeds_norm(program.network, readers, node)) continue;
    const bool support = s.inner_steps > 0 && conv_moment_groups(s, node, s.support_rows);
    const bool query = s.mode != Mode::adapt && conv_moment_groups(s, node, s.query_rows);
    node.attrs["moments"] = support || query;
    const char* sets = support && query ? "both sets"
                       : support        ? "the support set"
                                        : "the query set";
    const std::string where = support || query ? message("in the convolution's epilogue, of ", sets)
                                               : "by the norm's own sums";
    program.decisions.push_back(message("layer ", node.name, ": batch statistics ", where));
  }
}

}  // namespace fastmaml
