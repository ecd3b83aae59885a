// Which of an op's four passes an instruction does, see ops/op.hpp.
#pragma once

#include <cstdint>

namespace fastmaml {

enum class PassKind : int32_t { forward, backward, forward_jvp, backward_jvp };

// Whether its output is the layer's, or the loss's, and not its input's.
constexpr bool goes_forward(PassKind pass) {
  return pass == PassKind::forward || pass == PassKind::forward_jvp;
}

}  // namespace fastmaml
