#include "cuda/forms.hpp"

#include "cuda/tile_shape.hpp"
#include "ops/conv2d/conv2d_device.hpp"

namespace fastmaml {
namespace {

// Less depth is summed before the groups' sums could be added up.
constexpr int64_t kDepthToSplit = 256;

// What tiles sum of an instruction; no depth: it has none, or others sum it.
struct TileProblem {
  int64_t rows = 0, columns = 0, depth = 0;
};

TileProblem in_tiles(const ContractArgs& args) {
  if (contract_form(args) != ContractForm::tiles) return {};
  return {args.m, args.n, contract_depth(args)};
}

TileProblem in_tiles(const ConvArgs& args) {
  if (is_thin(args.groups, args.k, args.n)) return {};
  const auto terms = static_cast<int64_t>(args.terms.size());
  const int64_t weights = args.stencil->taps * args.k;
  const int64_t pixels = args.images * args.stencil->to_pixels;
  if (!args.weights) return {pixels, args.n, terms * weights};
  return {weights, args.n, terms * ((pixels + args.splits - 1) / args.splits)};
}

template <class A>
TileProblem in_tiles(const A&) {
  return {};
}

}  // namespace

int64_t contract_depth(const ContractArgs& args) {
  int64_t depth = 0;
  for (const ContractTerm& term : args.terms) depth += term.k;
  return depth;
}

ContractForm contract_form(const ContractArgs& args) {
  const int64_t depth = contract_depth(args);
  if (args.m == 1)
    return depth < kSharedDepth && args.runs == 1 ? ContractForm::row : ContractForm::long_row;
  // Sums over all tasks are none of inner products: their depth runs across rows.
  if (args.dot && args.c.stride != 0 && args.m * args.n <= kFewDots && depth >= kDotDepth)
    return ContractForm::dots;
  if (args.m <= kFewRows && depth >= kFewRowsDepth) return ContractForm::few_rows;
  return ContractForm::tiles;
}

DepthSplit depth_split(const Settings& settings, const Instruction& instruction) {
  if (settings.dtype != Dtype::f32 || settings.tf32) return DepthSplit::none;
  const TileProblem problem =
      visit_args([](const auto& args) { return in_tiles(args); }, instruction.args);
  if (problem.depth < kDepthToSplit) return DepthSplit::none;
  const TileShape shape = tile_shape(problem.rows, problem.columns);
  if (!is_large(shape)) return DepthSplit::others;
  const auto* conv = args_if<ConvArgs>(instruction.args);
  if (conv && conv->weights) return DepthSplit::weights;
  return shape == TileShape::high ? DepthSplit::high : DepthSplit::narrow;
}

}  // namespace fastmaml
