// The door of the binding: whether tensors are what a call of a plan reads and writes. Kernels rely
// on it, and the core knows pointers only.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/tensors.hpp"
#include "fastmaml.hpp"

namespace fastmaml {

// Where a call runs.
struct Place {
  int device = -1;
  uintptr_t stream = 0;
  pybind11::object tables = pybind11::none();
  int team = 0;
  bool all_threads = false;
};

class Door {
 public:
  Door(const NetworkSpec& network, const Settings& settings, const Shape& output);

  // The call with these tensors, which must outlive it. Throws TypeError where one is not what the
  // plan reads or writes: by its dtype, its device, or the number of its numbers.
  Call open(int64_t tasks, int threads, int lanes, pybind11::handle support_x,
            pybind11::handle support_y, pybind11::handle query_x, pybind11::handle query_y,
            std::vector<double> rates, const Tensors& tensors, const Tensors& outputs,
            pybind11::handle task_losses, pybind11::handle logits, pybind11::handle rate_dots,
            pybind11::handle workspace, size_t workspace_bytes, const Place& place,
            pybind11::handle scalars) const;

 private:
  Settings settings_;
  bool classes_;                   // whether y holds class indices
  int64_t row_, output_, target_;  // numbers of a row of x, of logits, of y
  std::vector<int64_t> tensors_, outputs_;
};

}  // namespace fastmaml
