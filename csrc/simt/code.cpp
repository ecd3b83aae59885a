#include "simt/code.hpp"

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <sstream>

namespace simt {
namespace {

constexpr int kMostLines = 4;  // of functions that were inlined into one another

}  // namespace

bool in_module(const void* address) {
  Dl_info own, other;
  return dladdr(reinterpret_cast<const void*>(&line_of), &own) && dladdr(address, &other) &&
         own.dli_fbase == other.dli_fbase;
}

std::string line_of(const void* code) {
  Dl_info info;
  if (!dladdr(code, &info)) return "an unknown place";
  std::ostringstream offset;
  offset << std::hex << "0x"
         << reinterpret_cast<uintptr_t>(code) - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1;
  const std::string module = info.dli_fname;
  const std::string command = "addr2line -i -e '" + module + "' " + offset.str() + " 2>/dev/null";
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe{popen(command.c_str(), "r"), &pclose};
  std::string lines;
  char line[1024];
  for (int i = 0; i < kMostLines && pipe && std::fgets(line, sizeof line, pipe.get()); ++i) {
    const std::string text(line, std::strcspn(line, " \n"));
    if (text[0] != '?') lines += (i > 0 ? " from " : "") + text;
  }
  return lines.empty() ? module + "+" + offset.str() : lines;
}

}  // namespace simt
