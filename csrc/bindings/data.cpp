// The data of a call: what the door (fastmaml/tasks.py) asks of them, in one look at each tensor.
// Yes is an answer; whoever hears no asks again in Python, which has the words for what is wrong.
#include <cstdint>
#include <optional>

#include "bindings/tensors.hpp"
#include "fastmaml.hpp"

namespace py = pybind11;

namespace fastmaml {
namespace {

constexpr dlpack::DataType kIndex{dlpack::kInt, 64, 1};

// What a call's x and y must be.
struct Wanted {
  dlpack::DataType x, y;
  dlpack::Device device;
  bool indices;  // y holds class indices
  bool any_y;    // the loss judges y itself
};

struct Kinds {
  py::object float32, float64;
  PyObject *type, *index;
};

const Kinds& kinds() {
  // Never destroyed: at exit the interpreter is gone before static objects are.
  static const Kinds& found = *new Kinds{
      py::module_::import("torch").attr("float32"), py::module_::import("torch").attr("float64"),
      PyUnicode_InternFromString("type"), PyUnicode_InternFromString("index")};
  return found;
}

py::object get(py::handle object, PyObject* name) {
  PyObject* const found = PyObject_GetAttr(object.ptr(), name);
  if (found == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
}

// A torch.device as DLPack has it; nothing for one that the engine does not know.
std::optional<dlpack::Device> device_of(py::handle device) {
  const py::object type = get(device, kinds().type);
  if (!PyUnicode_Check(type.ptr())) throw py::type_error("expected a torch.device");
  const auto is = [&](const char* name) {
    return PyUnicode_CompareWithASCIIString(type.ptr(), name) == 0;
  };
  if (is("cpu")) return dlpack::Device{dlpack::kCpu, 0};
  const py::object index = get(device, kinds().index);
  if (!is("cuda") || !PyLong_Check(index.ptr())) return std::nullopt;
  return dlpack::Device{dlpack::kCuda, py::cast<int32_t>(index)};
}

// One of the two objects of a pair, as Python would unpack it; nothing where it is none.
py::object part(py::handle pair, Py_ssize_t at) {
  PyObject* const object = pair.ptr();
  const PyTypeObject* const type = Py_TYPE(object);
  const auto walks_like = [&](const PyTypeObject& plain) {
    return type->tp_iter == plain.tp_iter &&
           type->tp_as_sequence->sq_length == plain.tp_as_sequence->sq_length;
  };
  if (PyTuple_Check(object) && walks_like(PyTuple_Type) && PyTuple_GET_SIZE(object) == 2)
    return py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(object, at));
  if (PyList_Check(object) && walks_like(PyList_Type) && PyList_GET_SIZE(object) == 2)
    return py::reinterpret_borrow<py::object>(PyList_GET_ITEM(object, at));
  return {};
}

// One set, x and y, and how they lie.
struct Set {
  py::object x, y;
  dlpack::Tensor in, target;

  explicit Set(py::handle pair) : x(part(pair, 0)), y(part(pair, 1)), in{}, target{} {}

  bool passes(const Wanted& wanted) {
    if (!x || !y || !read_whole(x.ptr(), in) || !read_whole(y.ptr(), target)) return false;
    if (in.dims < 2 || in.shape[0] == 0 || in.shape[1] == 0) return false;
    if (in.dtype != wanted.x || in.device != wanted.device) return false;
    if (target.dims < 2 || target.shape[0] != in.shape[0] || target.shape[1] != in.shape[1])
      return false;
    if (!wanted.any_y && target.dtype != wanted.y) return false;
    if (wanted.indices && target.dims != 2) return false;
    return target.device == wanted.device && !requires_grad(x.ptr()) && !requires_grad(y.ptr());
  }

  // Another set of the same tasks, of any number of rows.
  bool is_like(const Set& other) const {
    if (in.dims != other.in.dims || in.shape[0] != other.in.shape[0]) return false;
    for (int dim = 2; dim < in.dims; ++dim)
      if (in.shape[dim] != other.in.shape[dim]) return false;
    return true;
  }
};

// The fields of `Tasks`, or None.
py::object passing(py::handle support, py::handle query, py::handle dtype, py::handle device,
                   bool indices, bool any_y) {
  const bool wide = dtype.is(kinds().float64);
  if (!wide && !dtype.is(kinds().float32)) return py::none();
  const std::optional<dlpack::Device> place = device_of(device);
  if (!place) return py::none();
  const dlpack::DataType real{dlpack::kFloat, static_cast<uint8_t>(wide ? 64 : 32), 1};
  const Wanted wanted{real, indices ? kIndex : real, *place, indices, any_y};
  Set first(support);
  if (!first.passes(wanted)) return py::none();
  Set second = query.is(support) ? first : Set(query);
  if (!query.is(support) && !(second.passes(wanted) && second.is_like(first))) return py::none();
  py::tuple row(first.in.dims - 2);
  for (int dim = 2; dim < first.in.dims; ++dim) row[dim - 2] = py::int_(first.in.shape[dim]);
  return py::make_tuple(first.x, first.y, second.x, second.y, py::int_(first.in.shape[0]),
                        py::int_(first.in.shape[1]), py::int_(second.in.shape[1]), row);
}

bool are_within(const int64_t* values, int64_t count, int64_t classes) {
  for (int64_t i = 0; i < count; ++i)
    if (values[i] < 0 || values[i] >= classes) return false;
  return true;
}

// Whether all class indices [T, rows] are within [0, classes). What is expanded is looked at once.
bool are_within(const dlpack::Tensor& y, int64_t classes) {
  const int64_t step = y.strides[1];
  const int64_t tasks = y.strides[0] == 0 ? 1 : y.shape[0], rows = step == 0 ? 1 : y.shape[1];
  const int64_t run = step == 1 ? rows : 1;
  const auto* values = static_cast<const int64_t*>(memory_in(y).begin);
  for (int64_t task = 0; task < tasks; ++task)
    for (int64_t row = 0; row < rows; row += run)
      if (!are_within(values + task * y.strides[0] + row * step, run, classes)) return false;
  return true;
}

// Whether targets that passed have the shape of the model's output for them, or, of class indices,
// are within it. On a device these are not looked at: that would wait for it.
bool targets_fit(const py::tuple& output, py::handle support_y, py::handle query_y, bool indices) {
  int64_t classes = 0;
  if (indices) {
    if (output.size() != 1) return false;
    classes = py::cast<int64_t>(output[0]);
  }
  dlpack::Tensor y{};
  for (py::handle side : {support_y, query_y}) {
    if (!read(side.ptr(), y)) return false;
    if (!indices) {
      if (!has_shape(y, output.ptr(), 2)) return false;
    } else if (y.dtype != kIndex || y.dims != 2) {
      return false;
    } else if (y.device.type == dlpack::kCpu) {
      if (y.data == nullptr || !are_within(y, classes)) return false;
    }
  }
  return true;
}

bool readable(const py::args& tensors) {
  dlpack::Tensor found{};
  for (size_t i = 0; i < tensors.size(); ++i)
    if (!read_whole(PyTuple_GET_ITEM(tensors.ptr(), i), found)) return false;
  return true;
}

}  // namespace

void register_data(py::module_& module) {
  module.def("passing", &passing, py::arg("support"), py::arg("query"), py::arg("dtype"),
             py::arg("device"), py::arg("indices"), py::arg("any_y"));
  module.def("targets_fit", &targets_fit, py::arg("output"), py::arg("support_y"),
             py::arg("query_y"), py::arg("indices"));
  module.def("readable", &readable);
}

}  // namespace fastmaml
