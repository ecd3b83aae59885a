// What the module knows of torch: the address of a tensor, and the loops over a model's tensors and
// modules that every call makes. In Python they would take longer than the work between them.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/dlpack.hpp"

namespace fastmaml {

// Where a tensor's numbers lie, and what they are.
struct Memory {
  void* begin = nullptr;
  int64_t count = 0;
  dlpack::DataType dtype{};
  int32_t device = 0;  // kind, as DLPack numbers them
  bool dense = false;  // in C order, without holes
};

// All 0 for None. Throws TypeError for what is no tensor, and whatever torch throws. Whether a
// storage still holds all of its tensor was asked before, by `readable` or `fitting`.
Memory memory_of(pybind11::handle tensor);

// Tensors, kept alive, and where they lay when this was made.
struct Tensors {
  pybind11::list tensors;
  std::vector<Memory> memory;

  explicit Tensors(pybind11::list list);
  Tensors(pybind11::list list, std::vector<Memory> read);
};

void register_tensors(pybind11::module_& module);

}  // namespace fastmaml
