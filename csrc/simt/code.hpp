// Addresses of code, for messages.
#pragma once

#include <string>

namespace simt {

// Whether the address lies in this module's own image: code, constants, static data.
bool in_module(const void* address);
// The source line of the call that returns to `code`, and where that was inlined; its offset in the
// module where there is no addr2line.
std::string line_of(const void* code);

}  // namespace simt
