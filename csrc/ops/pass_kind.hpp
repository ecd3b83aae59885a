// Which of an op's four passes an instruction does, see ops/op.hpp.
#pragma once

#include <cstdint>

namespace fastmaml {

enum class PassKind : int32_t { forward, backward, forward_jvp, backward_jvp };

}  // namespace fastmaml
