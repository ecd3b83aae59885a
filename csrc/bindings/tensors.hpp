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

// Reads a plain tensor; false where it is none, or has no memory, and where torch has no table.
bool read(PyObject* object, dlpack::Tensor& out);

// The same of one that has memory for all its elements, which takes as long again: it is asked once
// for each tensor of a call.
bool read_whole(PyObject* object, dlpack::Tensor& out);

// Whether the shape from a dimension on is that of a tuple.
bool has_shape(const dlpack::Tensor& tensor, PyObject* shape, int from = 0);

// In torch's sense: the stride of a dimension of size 1 means nothing, nor does any of no elements.
bool is_contiguous(const dlpack::Tensor& tensor);

Memory memory_in(const dlpack::Tensor& tensor);

bool requires_grad(PyObject* tensor);

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
void register_data(pybind11::module_& module);

}  // namespace fastmaml
