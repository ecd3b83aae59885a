#include "bindings/tensors.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "fastmaml.hpp"

namespace py = pybind11;

namespace fastmaml {
namespace {

// An attribute that torch gives all tensors: its name, and the C functions behind it.
struct Attribute {
  PyObject* name = nullptr;
  PyGetSetDef* functions = nullptr;
};

// A method without arguments, likewise.
struct Method {
  PyObject* name = nullptr;
  PyCFunction function = nullptr;
};

// Torch as it was when the module was loaded. Objects are never released: at exit the interpreter
// is gone before static objects are.
struct Torch {
  PyTypeObject* tensor = nullptr;
  PyTypeObject* parameter = nullptr;
  PyTypeObject* storage = nullptr;
  dlpack::Read read = nullptr;
  Attribute grad, requires_grad, hooks, late_hooks;
  Method untyped_storage, nbytes, data_ptr;
};
Torch torch;

Attribute find_attribute(const py::object& tensor, const char* name) {
  Attribute found{PyUnicode_InternFromString(name), nullptr};
  const py::object descriptor = py::getattr(tensor, name, py::none());
  if (Py_IS_TYPE(descriptor.ptr(), &PyGetSetDescr_Type))
    found.functions = reinterpret_cast<PyGetSetDescrObject*>(descriptor.inc_ref().ptr())->d_getset;
  return found;
}

Method find_method(const py::object& kind, const char* name) {
  Method found{PyUnicode_InternFromString(name), nullptr};
  const py::object descriptor = py::getattr(kind, name, py::none());
  if (!Py_IS_TYPE(descriptor.ptr(), &PyMethodDescr_Type)) return found;
  const PyMethodDef* definition =
      reinterpret_cast<PyMethodDescrObject*>(descriptor.inc_ref().ptr())->d_method;
  if (definition->ml_flags == METH_NOARGS) found.function = definition->ml_meth;
  return found;
}

// Torch has the table since 2.10.
dlpack::Read find_reader(const py::object& tensor) {
  const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  const auto* table = static_cast<const dlpack::Exchange*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  return table->version.major == dlpack::kMajor ? table->read : nullptr;
}

void load_torch() {
  const py::object tensor = py::module_::import("torch").attr("Tensor");
  const py::object parameter = py::module_::import("torch.nn").attr("Parameter");
  torch.tensor = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr());
  torch.parameter = reinterpret_cast<PyTypeObject*>(parameter.inc_ref().ptr());
  torch.read = find_reader(tensor);
  const py::object storage = py::module_::import("torch").attr("UntypedStorage");
  torch.storage = reinterpret_cast<PyTypeObject*>(storage.inc_ref().ptr());
  torch.untyped_storage = find_method(tensor, "untyped_storage");
  torch.nbytes = find_method(storage, "nbytes");
  torch.data_ptr = find_method(storage, "data_ptr");
  torch.grad = find_attribute(tensor, "grad");
  torch.requires_grad = find_attribute(tensor, "requires_grad");
  torch.hooks = find_attribute(tensor, "_backward_hooks");
  torch.late_hooks = find_attribute(tensor, "_post_accumulate_grad_hooks");
}

// Whether nothing stands between the object and its memory: a subclass may be anything.
bool is_plain(PyObject* object) {
  return Py_TYPE(object) == torch.tensor || Py_TYPE(object) == torch.parameter;
}

// A method's result; of what is `plain` without the search for its name.
py::object call(PyObject* object, const Method& method, bool plain) {
  return py::reinterpret_steal<py::object>(plain && method.function != nullptr
                                               ? method.function(object, nullptr)
                                               : PyObject_CallMethodNoArgs(object, method.name));
}

// The whole number, at least 0, that a method of a storage gives; -1 with Python's error set.
int64_t ask(const py::object& storage, const Method& method) {
  const py::object number = call(storage.ptr(), method, Py_TYPE(storage.ptr()) == torch.storage);
  return number ? PyLong_AsLongLong(number.ptr()) : -1;
}

// Whether all elements lie within the storage, which its owner may have made smaller since: torch
// reads on, and so would the engine. The storages of tensors that stand for others have no address,
// and of what lies across the places of its numbers compilers know nothing.
bool is_within_storage(PyObject* object, const dlpack::Tensor& tensor) {
  int64_t last = 0;
  for (int dim = 0; dim < tensor.dims; ++dim) {
    if (tensor.shape[dim] == 0) return true;
    last += (tensor.shape[dim] - 1) * tensor.strides[dim];
  }
  if (tensor.data == nullptr) return false;
  const py::object storage = call(object, torch.untyped_storage, is_plain(object));
  const int64_t begin = storage ? ask(storage, torch.data_ptr) : -1;
  const int64_t bytes = begin > 0 ? ask(storage, torch.nbytes) : -1;
  if (bytes < 0) {
    PyErr_Clear();
    return false;
  }
  const int64_t size = tensor.dtype.bits / 8;
  const int64_t at = static_cast<int64_t>(reinterpret_cast<intptr_t>(tensor.data)) +
                     static_cast<int64_t>(tensor.byte_offset);
  return at >= begin && at + (last + 1) * size <= begin + bytes &&
         at % std::max<int64_t>(size, 1) == 0;
}

// What Python's own access comes to; of a plain tensor without the search for the name.
py::object get(PyObject* object, const Attribute& attribute) {
  const PyGetSetDef* direct = is_plain(object) ? attribute.functions : nullptr;
  PyObject* found = direct != nullptr && direct->get != nullptr
                        ? direct->get(object, direct->closure)
                        : PyObject_GetAttr(object, attribute.name);
  if (found == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
}

int set(PyObject* object, const Attribute& attribute, PyObject* value) {
  const PyGetSetDef* direct = is_plain(object) ? attribute.functions : nullptr;
  return direct != nullptr && direct->set != nullptr
             ? direct->set(object, value, direct->closure)
             : PyObject_SetAttr(object, attribute.name, value);
}

// What a model was. Nearly always its dicts hold, key by key, the same objects as then: that is
// told without a comparison, and without Python running.
class Snapshot {
 public:
  Snapshot(const py::list& equal, const py::list& same, const py::list& empty,
           const py::list& flags, const py::list& items) {
    for (py::handle entry : equal) equal_.emplace_back(entry);
    for (py::handle entry : same) {
      same_.emplace_back(entry);
      if (!PyDict_Check(same_.back().now.ptr()) || !PyDict_CheckExact(same_.back().then.ptr()))
        throw py::type_error("expected a dict and a plain copy of it");
    }
    for (py::handle container : empty)
      empty_.push_back(py::reinterpret_borrow<py::object>(container));
    for (py::handle entry : flags) flags_.emplace_back(entry);
    for (py::handle entry : items) items_.emplace_back(entry);
  }

  bool holds() const {
    for (const py::object& container : empty_) {
      const int filled = PyObject_IsTrue(container.ptr());
      if (filled < 0) throw py::error_already_set();
      if (filled) return false;
    }
    for (const Then& part : equal_)
      if (!(part.exact && part.has_same_objects()) && !part.is_equal()) return false;
    for (const Then& part : same_)
      if (!part.has_same_objects()) return false;
    for (const Then& part : flags_)
      if (get(part.now.ptr(), torch.requires_grad).ptr() != part.then.ptr()) return false;
    for (const Item& item : items_)
      if (!item.holds()) return false;
    return true;
  }

 private:
  // Something of the model's beside what it was.
  struct Then {
    py::object now, then;
    bool exact;                                          // two plain dicts
    std::vector<std::pair<PyObject*, PyObject*>> items;  // of `then`, which keeps them

    explicit Then(py::handle pair) {
      if (!PyTuple_Check(pair.ptr()) || PyTuple_GET_SIZE(pair.ptr()) != 2)
        throw py::type_error("expected a pair, got " + std::string(Py_TYPE(pair.ptr())->tp_name));
      now = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(pair.ptr(), 0));
      then = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(pair.ptr(), 1));
      exact = PyDict_CheckExact(now.ptr()) && PyDict_CheckExact(then.ptr());
      if (!PyDict_CheckExact(then.ptr())) return;
      PyObject *key, *value;
      for (Py_ssize_t at = 0; PyDict_Next(then.ptr(), &at, &key, &value);)
        items.emplace_back(key, value);
    }

    // Under the same keys, in the same order.
    bool has_same_objects() const {
      if (PyDict_GET_SIZE(now.ptr()) != static_cast<Py_ssize_t>(items.size())) return false;
      PyObject *key, *value;
      Py_ssize_t at = 0;
      for (const auto& [old_key, old_value] : items)
        if (!PyDict_Next(now.ptr(), &at, &key, &value) || key != old_key || value != old_value)
          return false;
      return true;
    }

    bool is_equal() const {
      const int differ = PyObject_RichCompareBool(now.ptr(), then.ptr(), Py_NE);
      if (differ < 0) throw py::error_already_set();
      return differ == 0;
    }
  };

  // What a dict holds by a name, or another object has; made anew when asked for, it is equal.
  struct Item {
    py::object holder, name, value;

    explicit Item(py::handle entry) {
      const auto parts = py::cast<py::tuple>(entry);
      if (parts.size() != 3) throw py::type_error("expected a holder, a name and a value");
      holder = parts[0], name = parts[1], value = parts[2];
    }

    bool holds() const {
      if (PyDict_CheckExact(holder.ptr()))
        return PyDict_GetItemWithError(holder.ptr(), name.ptr()) == value.ptr();
      PyObject* const got = PyObject_GetAttr(holder.ptr(), name.ptr());
      if (got == nullptr) PyErr_Clear();
      const auto found = py::reinterpret_steal<py::object>(got);
      return found.ptr() == value.ptr() || (found && found.equal(value));
    }
  };

  std::vector<Then> equal_, same_, flags_;
  std::vector<Item> items_;
  std::vector<py::object> empty_;
};

// The same from what torch says of any tensor, in Python.
Memory memory_by_name(py::handle tensor) {
  const auto ask = [&](const char* name) { return tensor.attr(name)(); };
  Memory found;
  found.count = py::cast<int64_t>(ask("numel"));
  found.dense = py::cast<bool>(ask("is_contiguous")) && !py::cast<bool>(ask("is_neg"));
  const int64_t size = py::cast<int64_t>(ask("element_size"));
  const int64_t end = py::cast<int64_t>(ask("storage_offset")) + found.count;
  found.begin = reinterpret_cast<void*>(py::cast<uintptr_t>(ask("data_ptr")));
  const int64_t held = py::cast<int64_t>(ask("untyped_storage").attr("nbytes")());
  if (found.count > 0 && found.dense && (found.begin == nullptr || held < end * size))
    throw py::type_error("expected a tensor with memory for all its numbers");
  const auto dtype = py::cast<std::string>(py::str(tensor.attr("dtype")));
  found.dtype = {dtype.starts_with("torch.float")  ? dlpack::kFloat
                 : dtype.starts_with("torch.int")  ? dlpack::kInt
                 : dtype.starts_with("torch.uint") ? dlpack::kUInt
                                                   : dlpack::kOther,
                 static_cast<uint8_t>(8 * size), 1};
  const auto device = py::cast<std::string>(tensor.attr("device").attr("type"));
  found.device = device == "cpu" ? dlpack::kCpu : device == "cuda" ? dlpack::kCuda : 0;
  return found;
}

std::optional<Tensors> fitting(const py::list& tensors, const py::list& shapes, py::handle like) {
  const size_t count = tensors.size();
  if (shapes.size() != count) throw py::value_error("expected as many shapes as tensors");
  std::vector<Memory> memory(count);
  dlpack::Tensor first{}, tensor{};
  if (!read_whole(like.ptr(), first)) return std::nullopt;
  for (size_t i = 0; i < count; ++i) {
    if (!read_whole(PyList_GET_ITEM(tensors.ptr(), i), tensor) || tensor.dtype != first.dtype ||
        tensor.device != first.device || !has_shape(tensor, PyList_GET_ITEM(shapes.ptr(), i)) ||
        !is_contiguous(tensor))
      return std::nullopt;
    memory[i] = memory_in(tensor);
  }
  return Tensors(tensors, std::move(memory));
}

bool has_hooks(PyObject* parameter) {
  for (const Attribute* hooks : {&torch.hooks, &torch.late_hooks}) {
    const py::object found = get(parameter, *hooks);
    if (!found.is_none() && py::len(found) > 0) return true;
  }
  return false;
}

// All or nothing, as a call that raises leaves .grad as it was. Hooks are left to autograd.
bool give_grads(const py::list& parameters, const py::list& grads) {
  const size_t count = parameters.size();
  if (grads.size() != count) throw py::value_error("expected as many gradients as parameters");
  for (py::handle parameter : parameters)
    if (!get(parameter.ptr(), torch.grad).is_none() || has_hooks(parameter.ptr())) return false;
  for (size_t i = 0; i < count; ++i) {
    PyObject* grad = PyList_GET_ITEM(grads.ptr(), i);
    if (set(PyList_GET_ITEM(parameters.ptr(), i), torch.grad, grad) == 0) continue;
    const py::error_already_set error;
    while (i-- > 0) set(PyList_GET_ITEM(parameters.ptr(), i), torch.grad, Py_None);
    throw error;
  }
  return true;
}

}  // namespace

bool read(PyObject* object, dlpack::Tensor& out) {
  if (torch.read == nullptr || !is_plain(object)) return false;
  if (torch.read(object, &out) == 0) return true;
  PyErr_Clear();
  return false;
}

bool read_whole(PyObject* object, dlpack::Tensor& out) {
  return read(object, out) && is_within_storage(object, out);
}

bool has_shape(const dlpack::Tensor& tensor, PyObject* shape, int from) {
  if (!PyTuple_Check(shape)) throw py::type_error("expected the shape of each tensor as a tuple");
  if (PyTuple_GET_SIZE(shape) != tensor.dims - from) return false;
  for (int dim = from; dim < tensor.dims; ++dim) {
    const long long size = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, dim - from));
    if (size == -1 && PyErr_Occurred()) throw py::error_already_set();
    if (size != tensor.shape[dim]) return false;
  }
  return true;
}

bool is_contiguous(const dlpack::Tensor& tensor) {
  int64_t expected = 1;
  bool dense = true;
  for (int dim = tensor.dims - 1; dim >= 0; --dim) {
    if (tensor.shape[dim] == 0) return true;
    if (tensor.shape[dim] != 1) dense = dense && tensor.strides[dim] == expected;
    expected *= tensor.shape[dim];
  }
  return dense;
}

Memory memory_in(const dlpack::Tensor& tensor) {
  int64_t count = 1;
  for (int dim = 0; dim < tensor.dims; ++dim) count *= tensor.shape[dim];
  return {static_cast<char*>(tensor.data) + tensor.byte_offset, count, tensor.dtype,
          tensor.device.type, is_contiguous(tensor)};
}

bool requires_grad(PyObject* tensor) { return get(tensor, torch.requires_grad).ptr() == Py_True; }

Memory memory_of(py::handle tensor) {
  if (tensor.is_none()) return {};
  if (!PyObject_TypeCheck(tensor.ptr(), torch.tensor))
    throw py::type_error("expected a torch.Tensor, got " +
                         std::string(Py_TYPE(tensor.ptr())->tp_name));
  dlpack::Tensor found{};
  return read(tensor.ptr(), found) ? memory_in(found) : memory_by_name(tensor);
}

Tensors::Tensors(py::list list) : tensors(std::move(list)) {
  memory.reserve(tensors.size());
  for (py::handle tensor : tensors) memory.push_back(memory_of(tensor));
}

Tensors::Tensors(py::list list, std::vector<Memory> read)
    : tensors(std::move(list)), memory(std::move(read)) {}

void register_tensors(py::module_& module) {
  load_torch();
  py::class_<Tensors>(module, "Tensors", py::module_local()).def(py::init<py::list>());
  py::class_<Snapshot>(module, "Snapshot", py::module_local())
      .def(py::init<const py::list&, const py::list&, const py::list&, const py::list&,
                    const py::list&>(),
           py::arg("equal"), py::arg("same"), py::arg("empty"), py::arg("flags"), py::arg("items"))
      .def("holds", &Snapshot::holds);
  module.def("fitting", &fitting, py::arg("tensors"), py::arg("shapes"), py::arg("like"));
  module.def("give_grads", &give_grads, py::arg("parameters"), py::arg("grads"));
}

}  // namespace fastmaml
