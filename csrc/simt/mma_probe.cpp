#include "simt/mma_probe.hpp"

#include "cuda/mma.cuh"
#include "simt/grid.hpp"

namespace simt {

void multiply_fragments(const float* a, const float* b, float* d) {
  using fastmaml::device::mma_tf32;
  using fastmaml::device::to_tf32;
  run_grid({1, 1, 1}, {32, 1, 1}, 0, [&] {
    const int at = lane();
    uint32_t from_a[4], from_b[2];
    for (int i = 0; i < 4; ++i) from_a[i] = to_tf32(a[at * 4 + i]);
    for (int i = 0; i < 2; ++i) from_b[i] = to_tf32(b[at * 2 + i]);
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = d[at * 4 + i];
    mma_tf32(sums, from_a, from_b);
    for (int i = 0; i < 4; ++i) d[at * 4 + i] = sums[i];
  });
}

}  // namespace simt
