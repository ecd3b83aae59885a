// Runs the core's tests: all, or those whose names contain one of the arguments.
#include "check.hpp"

namespace fastmaml::test {
namespace {

int failures = 0;

bool wanted(const std::string& name, int count, char** parts) {
  if (count == 0) return true;
  for (int i = 0; i < count; ++i)
    if (name.find(parts[i]) != std::string::npos) return true;
  return false;
}

}  // namespace

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

void fail(const char* file, int line, const std::string& text) {
  ++failures;
  std::cerr << file << ":" << line << ": " << text << "\n";
}

int run_all(int count, char** parts) {
  int ran = 0;
  for (const Test& test : tests()) {
    if (!wanted(test.name, count, parts)) continue;
    ++ran;
    const int before = failures;
    try {
      test.function();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("unexpected exception: ") + error.what());
    }
    std::cout << (failures == before ? "ok      " : "FAILED  ") << test.name << std::endl;
  }
  std::cout << ran << " tests, " << failures << " failures\n";
  return ran > 0 && failures == 0 ? 0 : 1;
}

}  // namespace fastmaml::test

int main(int argc, char** argv) { return fastmaml::test::run_all(argc - 1, argv + 1); }
