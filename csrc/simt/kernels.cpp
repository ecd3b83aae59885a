// The device code, compiled for the host.
#include "cuda/kernels.cu"

#include "cuda/kernels_tf32.cu"
