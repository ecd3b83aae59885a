// Kernels by address, so that the fake runtime can call what it is handed as `const void*`.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "simt/device.hpp"

namespace simt {

struct KernelType {
  void (*invoke)(const void* function, void** arguments);
  std::vector<size_t> sizes;  // of the arguments
};

void add_kernel(const void* function, KernelType type);
const KernelType* find_kernel(const void* function);

template <class... A, size_t... I>
SIMT_HOST_SIDE void invoke(const void* function, void** arguments, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(A...)>(const_cast<void*>(function))(*static_cast<A*>(arguments[I])...);
}

template <class... A>
const void* known_kernel(void (*function)(A...)) {
  const void* address = reinterpret_cast<const void*>(function);
  add_kernel(address, {[](const void* f, void** arguments) {
                         invoke<A...>(f, arguments, std::index_sequence_for<A...>{});
                       },
                       {sizeof(A)...}});
  return address;
}

}  // namespace simt
