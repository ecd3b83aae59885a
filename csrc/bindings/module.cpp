// The Python module fastmaml._C: a plan and its run. It knows pointers and sizes, no mathematics;
// fastmaml/_engine.py is its only user.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/error.hpp"
#include "fastmaml.hpp"

namespace py = pybind11;
using namespace fastmaml;

namespace {

using Address = uintptr_t;

template <class Pointer>
std::vector<Pointer> pointers(const std::vector<Address>& addresses) {
  std::vector<Pointer> out;
  out.reserve(addresses.size());
  for (Address address : addresses) out.push_back(reinterpret_cast<Pointer>(address));
  return out;
}

NodeSpec make_node(std::string op, std::vector<int> inputs, std::vector<int> params,
                   std::map<std::string, double> attrs, Shape shape, std::string name) {
  return {std::move(op),    std::move(inputs), std::move(params),
          std::move(attrs), std::move(shape),  std::move(name)};
}

// Plan::run or Plan::profile.
template <auto entry>
auto invoke(const Plan& plan, int64_t tasks, int threads, int lanes, Address support_x,
            Address support_y, Address query_x, Address query_y, std::vector<double> rates,
            const std::vector<Address>& tensors, const std::vector<Address>& outputs,
            Address task_losses, Address logits, Address loss_dots, Address workspace,
            size_t workspace_bytes) {
  Call call;
  call.tasks = tasks, call.threads = threads, call.lanes = lanes;
  call.support_x = reinterpret_cast<const void*>(support_x);
  call.support_y = reinterpret_cast<const void*>(support_y);
  call.query_x = reinterpret_cast<const void*>(query_x);
  call.query_y = reinterpret_cast<const void*>(query_y);
  call.rates = std::move(rates);
  call.tensors = pointers<const void*>(tensors);
  (plan.settings().mode == Mode::adapt ? call.fast : call.grads) = pointers<void*>(outputs);
  call.task_losses = reinterpret_cast<void*>(task_losses);
  call.logits = reinterpret_cast<void*>(logits);
  call.loss_dots = reinterpret_cast<void*>(loss_dots);
  call.workspace = reinterpret_cast<void*>(workspace);
  call.workspace_bytes = workspace_bytes;
  const py::gil_scoped_release release;
  return (plan.*entry)(call);
}

// The Python classes live in fastmaml/errors.py; this carries the texts across.
void register_errors() {
  // Never destroyed: at exit the interpreter is gone before static objects are.
  static const py::object& errors = *new py::object(py::module_::import("fastmaml.errors"));
  py::register_exception_translator([](std::exception_ptr pointer) {
    auto raise = [](const char* name, const std::exception& error) {
      PyErr_SetString(errors.attr(name).ptr(), error.what());
    };
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ShapeError& error) {
      raise("ShapeError", error);
    } catch (const SettingError& error) {
      raise("SettingError", error);
    } catch (const UnsupportedModelError& error) {
      raise("UnsupportedModelError", error);
    } catch (const InternalError& error) {
      raise("InternalError", error);
    }
  });
}

void register_specs(py::module_& module) {
  py::enum_<Mode>(module, "Mode")
      .value("meta_step", Mode::meta_step)
      .value("evaluate", Mode::evaluate)
      .value("adapt", Mode::adapt);
  py::class_<TensorSpec>(module, "TensorSpec")
      .def(py::init([](std::string name, Shape shape, bool trainable) {
        return TensorSpec{std::move(name), std::move(shape), trainable};
      }));
  py::class_<NodeSpec>(module, "NodeSpec").def(py::init(&make_node));
  py::class_<InstructionTime>(module, "InstructionTime")
      .def_readonly("label", &InstructionTime::label)
      .def_readonly("seconds", &InstructionTime::seconds)
      .def_readonly("flops", &InstructionTime::flops);
}

void register_plan(py::module_& module) {
  py::class_<Plan>(module, "Plan")
      .def(
          py::init([](Shape row_shape, std::vector<TensorSpec> tensors, std::vector<NodeSpec> nodes,
                      int output, NodeSpec loss, bool float64, Mode mode, int64_t support_rows,
                      int64_t query_rows, int inner_steps, bool first_order, bool rate_grad,
                      bool recompute, int factored, int winograd) {
            const NetworkSpec network{std::move(row_shape), std::move(tensors), std::move(nodes),
                                      output, std::move(loss)};
            const Settings settings{float64 ? Dtype::f64 : Dtype::f32,
                                    mode,
                                    support_rows,
                                    query_rows,
                                    inner_steps,
                                    first_order,
                                    rate_grad,
                                    recompute,
                                    factored,
                                    winograd};
            const py::gil_scoped_release release;
            return std::make_unique<Plan>(network, settings);
          }),
          py::arg("row_shape"), py::arg("tensors"), py::arg("nodes"), py::arg("output"),
          py::arg("loss"), py::kw_only(), py::arg("float64"), py::arg("mode"),
          py::arg("support_rows"), py::arg("query_rows"), py::arg("inner_steps"),
          py::arg("first_order"), py::arg("rate_grad"), py::arg("recompute"),
          py::arg("factored") = -1, py::arg("winograd") = -1)
      .def("workspace_bytes", &Plan::workspace_bytes, py::arg("tasks"), py::arg("threads"),
           py::arg("lanes") = 0)
      .def("describe", &Plan::describe, py::arg("tasks"), py::arg("threads"), py::arg("lanes") = 0)
      .def("flops", &Plan::flops, py::arg("tasks"))
      .def("output_shape", &Plan::output_shape)
      .def("run", &invoke<&Plan::run>)
      .def("profile", &invoke<&Plan::profile>);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  register_errors();
  register_specs(module);
  register_plan(module);
  module.def("instruction_set", &instruction_set);
  module.def("available_instruction_sets", &available_instruction_sets);
  module.def("force_instruction_set", &force_instruction_set, py::arg("name"));
  module.def(
      "first_outside",
      [](Address values, int64_t count, int64_t limit) {
        return first_outside(reinterpret_cast<const int64_t*>(values), count, limit);
      },
      py::arg("values"), py::arg("count"), py::arg("limit"));
  module.def(
      "peak_flops",
      [](bool float64, int threads) {
        const py::gil_scoped_release release;
        return peak_flops(float64 ? Dtype::f64 : Dtype::f32, threads);
      },
      py::arg("float64"), py::arg("threads"));
}
