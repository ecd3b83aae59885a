// Products on tensor cores: one warp's 16 x 8 sums of 8 products each, of factors rounded to tf32
// (float's exponents, 10 bits of mantissa), summed in float.
//
// A fragment is what one lane holds of a matrix. With g = lane / 4 and t = lane % 4 (PTX ISA,
// mma.m16n8k8 of .tf32):
//
//   a [16, 8]   a0 = (g, t)     a1 = (g + 8, t)     a2 = (g, t + 4)     a3 = (g + 8, t + 4)
//   b [8, 8]    b0 = (t, g)     b1 = (t + 4, g)
//   d [16, 8]   d0 = (g, 2 t)   d1 = (g, 2 t + 1)   d2 = (g + 8, 2 t)   d3 = (g + 8, 2 t + 1)
#pragma once

#include "cuda/device.cuh"

#if defined(FASTMAML_SIMT)
#include <bit>
#include <cmath>
#endif

namespace fastmaml::device {

constexpr int kMmaRows = 16, kMmaColumns = 8, kMmaDepth = 8;

// The nearest number of tf32, the larger one of two that are equally near; a float's bits. What the
// tensor cores are given unrounded they cut off, which would shift every sum one way.
FASTMAML_DEVICE uint32_t to_tf32(float x) {
#if defined(FASTMAML_SIMT)
  constexpr uint32_t kCut = (1u << 13) - 1, kHalf = 1u << 12;
  if (std::isnan(x)) return 0x7fffffff;
  return (std::bit_cast<uint32_t>(x) + (std::isinf(x) ? 0 : kHalf)) & ~kCut;
#elif defined(__CUDA_ARCH__)
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
#else
  return 0;
#endif
}

#if defined(FASTMAML_SIMT)
// The host's model: lanes hand in their factors, and each sums its own four outputs.
inline void mma_tf32_on_host(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Factors {
    uint32_t a[4], b[2];
  };
  const Factors own{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  simt::warp_meet(~0u, &own, sizeof own, simt::Where::current());
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  for (int l = 0; l < kMmaDepth; ++l) {
    const int place = l % 4, half = l / 4;  // of the depth in the fragments
    Factors row, column[2];
    simt::warp_read(g * 4 + place, &row, sizeof row);
    for (int c = 0; c < 2; ++c)
      simt::warp_read((t * 2 + c) * 4 + place, &column[c], sizeof column[c]);
    for (int i = 0; i < 4; ++i)
      d[i] += std::bit_cast<float>(row.a[half * 2 + i / 2]) *
              std::bit_cast<float>(column[i % 2].b[half]);
  }
}
#endif

// d += a b, by all lanes of a warp together.
FASTMAML_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(FASTMAML_SIMT)
  mma_tf32_on_host(d, a, b);
#elif defined(__CUDA_ARCH__)
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace fastmaml::device
