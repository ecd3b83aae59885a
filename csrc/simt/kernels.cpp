// The device code, compiled for the host.
#include "cuda/kernels.cu"

#include "cuda/kernels_f32.cu"
#include "cuda/kernels_f64.cu"
#include "cuda/kernels_split.cu"
#include "cuda/kernels_tf32.cu"
#include "cuda/resident_f32.cu"
#include "cuda/resident_f64.cu"
