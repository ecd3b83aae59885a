#include "bindings/settings.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace py = pybind11;

namespace fastmaml {
namespace {

[[noreturn]] void refuse(const char* name, const char* wanted, py::handle came) {
  throw py::type_error(message("expected ", wanted, " for the setting ", name, ", got ",
                               Py_TYPE(came.ptr())->tp_name));
}

void read(const char* name, py::handle value, bool& field) {
  if (!PyBool_Check(value.ptr())) refuse(name, "True or False", value);
  field = value.ptr() == Py_True;
}

template <class Integer>
void read(const char* name, py::handle value, Integer& field) {
  using Limits = std::numeric_limits<Integer>;
  if (!PyLong_Check(value.ptr()) || PyBool_Check(value.ptr())) refuse(name, "an integer", value);
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow != 0 || number < Limits::min() || number > Limits::max())
    throw py::type_error(message("expected an integer of ", 8 * sizeof(Integer),
                                 " bits for the setting ", name, ", got a larger one"));
  field = static_cast<Integer>(number);
}

void read(const char* name, py::handle value, Dtype& field) {
  bool float64 = false;
  read(name, value, float64);
  field = float64 ? Dtype::f64 : Dtype::f32;
}

void read(const char* name, py::handle value, Mode& field) {
  constexpr std::pair<const char*, Mode> kModes[] = {{"meta_step", Mode::meta_step},
                                                     {"evaluate", Mode::evaluate},
                                                     {"curve", Mode::curve},
                                                     {"adapt", Mode::adapt}};
  const auto* found = std::find_if(std::begin(kModes), std::end(kModes), [&](const auto& mode) {
    return PyUnicode_Check(value.ptr()) &&
           PyUnicode_CompareWithASCIIString(value.ptr(), mode.first) == 0;
  });
  if (found == std::end(kModes))
    refuse(name, "\"meta_step\", \"evaluate\", \"curve\" or \"adapt\"", value);
  field = found->second;
}

// Reads fields by their names, and knows which names there are.
class Fields {
 public:
  explicit Fields(const py::dict& given) : given_(given) {}

  template <class Field>
  Fields& take(const char* name, Field& field) {
    names_.push_back(name);
    if (PyObject* value = PyDict_GetItemString(given_.ptr(), name))
      read(name, value, field);
    else
      missing_.push_back(name);
    return *this;
  }

  void end() const {
    if (!missing_.empty())
      throw py::type_error("expected all settings of a plan, got none for " + listed(missing_));
    for (const auto& [key, value] : given_) {
      const auto is_key = [&](const std::string& name) {
        return PyUnicode_Check(key.ptr()) &&
               PyUnicode_CompareWithASCIIString(key.ptr(), name.c_str()) == 0;
      };
      if (std::none_of(names_.begin(), names_.end(), is_key))
        throw py::type_error("expected no settings of a plan but " + listed(names_) + ", got " +
                             std::string(py::repr(key)));
    }
  }

 private:
  static std::string listed(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
  }

  const py::dict& given_;
  std::vector<std::string> names_, missing_;
};

}  // namespace

Settings settings_of(const py::dict& given) {
  Settings s;
  Fields(given)
      .take("mode", s.mode)
      .take("float64", s.dtype)
      .take("support_rows", s.support_rows)
      .take("query_rows", s.query_rows)
      .take("inner_steps", s.inner_steps)
      .take("first_order", s.first_order)
      .take("rate_grad", s.rate_grad)
      .take("recompute", s.recompute)
      .take("factored", s.factored)
      .take("winograd", s.winograd)
      .take("device", s.device)
      .take("moment_bytes", s.moment_bytes)
      .take("run_pixels", s.run_pixels)
      .take("most_bytes", s.most_bytes)
      .take("tf32", s.tf32)
      .end();
  return s;
}

}  // namespace fastmaml
