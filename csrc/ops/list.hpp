// The one list of ops (add an op: its folder, and its class or the arguments of its kernel). The
// registry, the arguments that an instruction may have, and the kernels of both sides follow from
// it. Whoever wants another file of each folder with kernels than its card, says which before:
//
//   #define FASTMAML_OP_FILE(op) FASTMAML_PATH(op, op##_cpu.hpp)

// clang-format off
#define FASTMAML_TEXT(path) #path
#define FASTMAML_PATH(op, file) FASTMAML_TEXT(ops/op/file)
// clang-format on
#ifndef FASTMAML_OP_FILE
#define FASTMAML_OP_FILE(op) FASTMAML_PATH(op, op.hpp)
#endif

// Folders with kernels.
#include FASTMAML_OP_FILE(batch_norm)
#include FASTMAML_OP_FILE(bce_with_logits)
#include FASTMAML_OP_FILE(contract)
#include FASTMAML_OP_FILE(conv2d)
#include FASTMAML_OP_FILE(cross_entropy)
#include FASTMAML_OP_FILE(group_norm)
#include FASTMAML_OP_FILE(mse)
#include FASTMAML_OP_FILE(patches)
#include FASTMAML_OP_FILE(permute)
#include FASTMAML_OP_FILE(pointwise)
#include FASTMAML_OP_FILE(pool2d)
#include FASTMAML_OP_FILE(stem)
#include FASTMAML_OP_FILE(taps)
#include FASTMAML_OP_FILE(transpose)
#undef FASTMAML_OP_FILE
#undef FASTMAML_PATH
#undef FASTMAML_TEXT

#ifndef FASTMAML_OPS_LIST
#define FASTMAML_OPS_LIST

#include "ops/add/add.hpp"
#include "ops/centre/centre.hpp"
#include "ops/concat/concat.hpp"
#include "ops/linear/linear.hpp"

namespace fastmaml {

template <class... Listed>
struct TypeList {};

// Classes, and the arguments of kernels that are no op's. `Args` has the order of this list.
using OpList = TypeList<ContractArgs, TransposeArgs, Pointwise, BatchNorm, Mse, CrossEntropy,
                        BceWithLogits, Conv2d, Permute, Pool2d, GroupNorm, TapArgs, Patches, Stem,
                        Add, Centre, Concat, Linear>;

}  // namespace fastmaml

#endif
