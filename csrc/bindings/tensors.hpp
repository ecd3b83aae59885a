// What the module knows of torch: the address of a tensor, and the loops over a model's tensors and
// modules that every call makes. In Python they would take longer than the work between them.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

namespace fastmaml {

// Where a tensor's numbers lie; nullptr for None. Throws TypeError for what is no tensor, and
// whatever torch does where there is no memory.
void* address_of(pybind11::handle tensor);

// Tensors, kept alive, and where they lay when this was made.
struct Tensors {
  pybind11::list tensors;
  std::vector<void*> addresses;

  explicit Tensors(pybind11::list list);
  Tensors(pybind11::list list, std::vector<void*> read);
};

void register_tensors(pybind11::module_& module);

}  // namespace fastmaml
