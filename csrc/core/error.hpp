// The exceptions of the core. Each text reads: where: what must hold, what came, what to do.
// The binding maps each class to the Python class of the same name; nothing here prints or aborts.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fastmaml {

struct ShapeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct SettingError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct UnsupportedModelError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct BackendError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct InternalError : std::logic_error {
  using std::logic_error::logic_error;
};

// Joins its arguments into one text: message("got ", 3, " rows").
template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace fastmaml
