// The Python module fastmaml._C (and, for tests, the one that runs device code on the host): a plan
// and its run. It knows pointers and sizes, no mathematics; fastmaml/engine/core.py is its only
// door.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bindings/call.hpp"
#include "bindings/settings.hpp"
#include "bindings/tensors.hpp"
#include "core/error.hpp"
#include "core/processors.hpp"
#include "engine/device_cost.hpp"
#include "fastmaml.hpp"
#include "machine.hpp"
#include "ops/registry.hpp"

#ifndef FASTMAML_MODULE
#define FASTMAML_MODULE _C
#endif

namespace py = pybind11;
using namespace fastmaml;

namespace {

NodeSpec make_node(std::string op, std::vector<int> inputs, std::vector<int> params,
                   std::map<std::string, double> attrs, Shape shape, std::string name) {
  return {std::move(op),    std::move(inputs), std::move(params),
          std::move(attrs), std::move(shape),  std::move(name)};
}

// Has Python handle the signals that came meanwhile, without the GIL till then: what a handler
// raises, as Ctrl-C does, is thrown. Only the main thread handles any.
void handle_signals() {
  if (syscall(SYS_gettid) != getpid()) return;
  const py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// A plan, and the door to its calls.
struct BoundPlan : Plan {
  BoundPlan(const NetworkSpec& network, const Settings& settings)
      : Plan(network, settings, Poll{handle_signals}), door(network, settings, output_shape()) {}
  const Door door;
};

// For results.
const char* name_of(Executor executor) {
  switch (executor) {
    case Executor::cpu:
      return "cpu";
    case Executor::launches:
      return "cuda launches";
    case Executor::graph:
      return "cuda graph";
    case Executor::resident:
      break;
  }
  return "cuda resident";
}

// Plan::run or Plan::profile. The caller holds the tensors while it runs.
template <auto entry>
auto invoke(const BoundPlan& bound, int64_t tasks, int threads, int lanes, py::handle support_x,
            py::handle support_y, py::handle query_x, py::handle query_y, std::vector<double> rates,
            py::handle tensors, const py::list& outputs, py::handle task_losses, py::handle logits,
            py::handle rate_dots, py::handle workspace, size_t workspace_bytes, const Place& place,
            py::handle scalars) {
  // Made here and not by pybind11, which would show the arguments that it cannot convert.
  const bool read = py::isinstance<Tensors>(tensors);
  const Tensors found = read ? py::cast<Tensors>(tensors) : Tensors(py::cast<py::list>(tensors));
  const Plan& plan = bound;
  Call call = bound.door.open(tasks, threads, lanes, support_x, support_y, query_x, query_y,
                              std::move(rates), found, Tensors(outputs), task_losses, logits,
                              rate_dots, workspace, workspace_bytes, place, scalars);
  call.poll.ask = handle_signals;
  const py::gil_scoped_release release;
  if constexpr (std::is_same_v<decltype((plan.*entry)(call)), Executor>)
    return name_of((plan.*entry)(call));
  else
    return (plan.*entry)(call);
}

// The Python classes live in fastmaml/errors.py; this carries the texts across.
void register_errors() {
  // Never destroyed: at exit the interpreter is gone before static objects are.
  static const py::object& errors = *new py::object(py::module_::import("fastmaml.errors"));
  py::register_local_exception_translator([](std::exception_ptr pointer) {
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
    } catch (const BackendError& error) {
      raise("BackendError", error);
    } catch (const InternalError& error) {
      raise("InternalError", error);
    }
  });
}

void register_specs(py::module_& module) {
  py::class_<TensorSpec>(module, "TensorSpec", py::module_local())
      .def(py::init([](std::string name, Shape shape, bool adapted, bool trained) {
        return TensorSpec{std::move(name), std::move(shape), adapted, trained};
      }));
  py::class_<NodeSpec>(module, "NodeSpec", py::module_local()).def(py::init(&make_node));
  py::class_<NetworkSpec>(module, "NetworkSpec", py::module_local())
      .def(py::init([](Shape row_shape, std::vector<TensorSpec> tensors,
                       std::vector<NodeSpec> nodes, int output, NodeSpec loss) {
             return NetworkSpec{std::move(row_shape), std::move(tensors), std::move(nodes), output,
                                std::move(loss)};
           }),
           py::arg("row_shape"), py::arg("tensors"), py::arg("nodes"), py::arg("output"),
           py::arg("loss"));
  py::class_<Place>(module, "Place", py::module_local())
      .def(
          py::init([](int device, uintptr_t stream, py::object tables, int team, bool all_threads) {
            return Place{device, stream, std::move(tables), team, all_threads};
          }),
          py::arg("device") = -1, py::arg("stream") = 0, py::arg("tables") = py::none(),
          py::arg("team") = 0, py::arg("all_threads") = false);
  py::class_<InstructionTime>(module, "InstructionTime", py::module_local())
      .def_readonly("label", &InstructionTime::label)
      .def_readonly("seconds", &InstructionTime::seconds)
      .def_readonly("flops", &InstructionTime::flops);
  py::class_<KindCost>(module, "KindCost", py::module_local())
      .def_readonly("kind", &KindCost::kind)
      .def_readonly("instructions", &KindCost::instructions)
      .def_readonly("flops", &KindCost::flops)
      .def_readonly("bytes", &KindCost::bytes);
  py::class_<DeviceCost>(module, "DeviceCost", py::module_local())
      .def_readonly("obstacle", &DeviceCost::obstacle)
      .def_readonly("launches", &DeviceCost::launches)
      .def_readonly("kernels", &DeviceCost::kernels)
      .def_readonly("rounds", &DeviceCost::rounds)
      .def_readonly("flops", &DeviceCost::flops)
      .def_readonly("bytes", &DeviceCost::bytes)
      .def_readonly("workspace_bytes", &DeviceCost::workspace_bytes)
      .def_readonly("block_bytes", &DeviceCost::block_bytes)
      .def_readonly("kinds", &DeviceCost::kinds);
}

void register_plan(py::module_& module) {
  py::class_<BoundPlan>(module, "Plan", py::module_local())
      .def(py::init([](const NetworkSpec& network, const py::dict& given) {
             const Settings settings = settings_of(given);
             const py::gil_scoped_release release;
             return std::make_unique<BoundPlan>(network, settings);
           }),
           py::arg("network"), py::arg("settings"))
      .def("workspace_bytes", &Plan::workspace_bytes, py::arg("tasks"), py::arg("threads"),
           py::arg("lanes") = 0)
      .def("program_bytes", &Plan::program_bytes)
      .def("device_program_bytes",
           [](const BoundPlan& plan) { return plan.device_tables().size(); })
      .def("device_workspace_bytes", &Plan::device_workspace_bytes, py::arg("tasks"),
           py::arg("lanes") = 0)
      .def("device_tables",
           [](const BoundPlan& plan) {
             const std::vector<char>& bytes = plan.device_tables();
             return py::bytes(bytes.data(), bytes.size());
           })
      .def("device_cost", &Plan::device_cost, py::arg("tasks"), py::arg("lanes"), py::arg("team"),
           py::arg("shared_limit"))
      .def("describe_device", &Plan::describe_device, py::arg("tasks"), py::arg("lanes"),
           py::arg("team"), py::arg("shared_limit"))
      .def("describe", &Plan::describe, py::arg("tasks"), py::arg("threads"), py::arg("lanes") = 0)
      .def("flops", &Plan::flops, py::arg("tasks"))
      .def("output_shape", &Plan::output_shape)
      .def(
          "scalars",
          [](const BoundPlan& plan, int64_t tasks) {
            std::vector<std::pair<double, int>> all;
            for (const Scalar& scalar : plan.scalars(tasks))
              all.emplace_back(scalar.number, scalar.step);
            return all;
          },
          py::arg("tasks"))
      .def("run", &invoke<&Plan::run>)
      .def("profile", &invoke<&Plan::profile>);
}

}  // namespace

#ifdef FASTMAML_SIMT_MODULE
void register_simt(py::module_& parent);
#endif

PYBIND11_MODULE(FASTMAML_MODULE, module) {
  register_errors();
  register_specs(module);
  register_plan(module);
  register_tensors(module);
  register_data(module);
#ifdef FASTMAML_SIMT_MODULE
  register_simt(module);
#endif
  module.def("device_absence", &device_absence);
  module.def("device_shared_limit", &device_shared_limit, py::arg("device"));
  module.def("usable_processors", &usable_processors);
  module.def("op_names", &op_names);
  module.def("loss_names", &loss_names);
  module.def("instruction_set", &instruction_set);
  module.def("available_instruction_sets", &available_instruction_sets);
  module.def("force_instruction_set", &force_instruction_set, py::arg("name"));
  module.def(
      "peak_flops",
      [](bool float64, int threads) {
        const py::gil_scoped_release release;
        return peak_flops(float64 ? Dtype::f64 : Dtype::f32, threads);
      },
      py::arg("float64"), py::arg("threads"));
}
