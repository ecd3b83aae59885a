// A plan's settings as Python gives them: a dict by the names of `Settings` (fastmaml.hpp).
#pragma once

#include <pybind11/pybind11.h>

#include "fastmaml.hpp"

namespace fastmaml {

// Every name must be there, and no other. Throws TypeError where one is missing or unknown, or a
// value is of another kind; whether values make sense is the planner's to say.
Settings settings_of(const pybind11::dict& given);

}  // namespace fastmaml
