// A test is a function named by TEST; CHECK reports what failed and lets the test go on.
//
//   TEST(threads_do_not_change_bits) { CHECK(a == b); }
#pragma once

#include <cmath>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace fastmaml::test {

struct Test {
  const char* name;
  void (*function)();
};

std::vector<Test>& tests();
void fail(const char* file, int line, const std::string& text);

struct Register {
  Register(const char* name, void (*function)()) { tests().push_back({name, function}); }
};

// Passes when `function` throws an E whose text contains `text`.
template <class E, class Function>
void check_throws(const char* file, int line, const std::string& text, Function&& function) {
  try {
    function();
  } catch (const E& error) {
    if (std::string(error.what()).find(text) == std::string::npos)
      fail(file, line, "the text must contain \"" + text + "\", got \"" + error.what() + "\"");
    return;
  } catch (const std::exception& error) {
    fail(file, line, std::string("another class of exception came: ") + error.what());
    return;
  }
  fail(file, line, "nothing was thrown, expected \"" + text + "\"");
}

}  // namespace fastmaml::test

#define TEST(name)                                                           \
  static void test_##name();                                                 \
  static const fastmaml::test::Register register_##name(#name, test_##name); \
  static void test_##name()

// CHECK(condition, parts of a message...)
#define CHECK(condition, ...)                                                              \
  do {                                                                                     \
    if (!(condition))                                                                      \
      fastmaml::test::fail(__FILE__, __LINE__,                                             \
                           fastmaml::message(#condition, " " __VA_OPT__(, ) __VA_ARGS__)); \
  } while (false)

#define CHECK_THROWS(E, text, ...) \
  fastmaml::test::check_throws<E>(__FILE__, __LINE__, text, [&] { __VA_ARGS__; })
