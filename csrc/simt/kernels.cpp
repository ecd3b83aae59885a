// The device code, compiled for the host.
#include "cuda/kernels.cu"
