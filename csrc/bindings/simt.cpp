// What tests set and see of the host executor, in the module _simt.simt.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "planted.hpp"
#include "simt/grid.hpp"
#include "simt/runtime.hpp"
#include "simt/watch.hpp"

namespace py = pybind11;

void register_simt(py::module_& parent) {
  py::module_ module = parent.def_submodule("simt", "How device code runs on the host.");
  module.def(
      "set_order",
      [](const std::string& order, uint64_t seed) {
        if (order != "ascending" && order != "descending" && order != "shuffled")
          throw py::value_error("order must be ascending, descending or shuffled, got " + order);
        simt::set_order(order == "ascending"    ? simt::Order::ascending
                        : order == "descending" ? simt::Order::descending
                                                : simt::Order::shuffled,
                        seed);
      },
      py::arg("order"), py::arg("seed") = 0);
  module.def("counts", [] {
    const simt::Counts counts = simt::counts();
    py::dict result;
    result["launches"] = counts.launches;
    result["graphs"] = counts.graphs;
    result["graph_launches"] = counts.graph_launches;
    return result;
  });
  module.def("set_capturing", &simt::set_capturing, py::arg("on"));
  module.def("fail_next_launch", &simt::fail_next_launch);
  module.attr("checked") = simt::watched();
  module.def("planted", &fastmaml::test::planted_names);
  module.def("run_planted", &fastmaml::test::run_planted, py::arg("name"),
             py::arg("right") = false);
  module.def("runtime_failures", &fastmaml::test::runtime_failures);
}
