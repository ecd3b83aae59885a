// A kernel's address, as launches take it.
#pragma once

#include "cuda/device.cuh"

#if defined(FASTMAML_SIMT)
#include "simt/kernel.hpp"
#endif

namespace fastmaml::device {

template <class... A>
const void* known(void (*function)(A...)) {
#if defined(FASTMAML_SIMT)
  return simt::known_kernel(function);
#else
  return reinterpret_cast<const void*>(function);
#endif
}

}  // namespace fastmaml::device
