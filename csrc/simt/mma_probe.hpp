// One product of cuda/mma.cuh on the host's fibers, for its test.
#pragma once

namespace simt {

// d += a b of one warp, a and b rounded to tf32. Fragments lane by lane: a [32, 4], b [32, 2],
// d [32, 4].
void multiply_fragments(const float* a, const float* b, float* d);

}  // namespace simt
