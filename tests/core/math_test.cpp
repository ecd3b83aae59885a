// The elementary functions of csrc/cpu/math.hpp against the C library in long double.
#define FASTMAML_ISA under_test

#include "cpu/math.hpp"

#include <limits>
#include <random>

#include "check.hpp"
#include "core/error.hpp"

namespace fastmaml::test {
namespace {

using namespace under_test;

// Distance in units of the last place of the expected result.
template <class T>
long double ulps(T actual, long double expected) {
  if (std::isnan(actual)) return std::numeric_limits<long double>::infinity();
  const T near = static_cast<T>(expected);
  if (actual == near) return std::abs(static_cast<long double>(actual) - expected) > 0 ? 0.5L : 0;
  int exponent;
  std::frexp(std::abs(expected), &exponent);
  const int lowest = std::numeric_limits<T>::min_exponent;
  exponent = (exponent > lowest ? exponent : lowest) - std::numeric_limits<T>::digits;
  return std::abs(static_cast<long double>(actual) - expected) / std::ldexp(1.0L, exponent);
}

template <class T, class Function, class Truth>
void check_function(const char* name, double low, double high, double allowed, Function function,
                    Truth truth) {
  std::mt19937 generator(5);
  std::uniform_real_distribution<double> place(low, high), exponent(-40, 0);
  for (int i = 0; i < 20000; ++i) {
    Vec<T> x;
    for (int l = 0; l < kWidth<T>; ++l)  // half of them over the range, half near zero
      x[l] = static_cast<T>(i % 2 ? place(generator)
                                  : std::exp2(exponent(generator)) * (high > -low ? high : low));
    const Vec<T> y = function(x);
    for (int l = 0; l < kWidth<T>; ++l) {
      const long double error = ulps<T>(y[l], truth(static_cast<long double>(x[l])));
      CHECK(error <= allowed, name, "(", x[l], ") = ", y[l], " errs by ", error, " ulp");
    }
  }
}

template <class T>
void check_functions() {
  const bool wide = sizeof(T) == 8;
  using L = long double;
  check_function<T>(
      "exp", wide ? -745 : -103, wide ? 709 : 88, 1.1, [](Vec<T> x) { return exp<T>(x); },
      [](L x) { return std::exp(x); });
  check_function<T>(
      "expm1", -50, wide ? 709 : 88, 2, [](Vec<T> x) { return expm1<T>(x); },
      [](L x) { return std::expm1(x); });
  check_function<T>(
      "expm1", -2, 1, 2, [](Vec<T> x) { return expm1<T>(x); }, [](L x) { return std::expm1(x); });
  check_function<T>(
      "tanh", -20, 2, 3, [](Vec<T> x) { return tanh<T>(x); }, [](L x) { return std::tanh(x); });
  check_function<T>(
      "log1p_unit", 0, 1, 2, [](Vec<T> x) { return log1p_unit<T>(x); },
      [](L x) { return std::log1p(x); });
  check_function<T>(
      "erf", -6, 2, 1.5, [](Vec<T> x) { return erf<T>(x); }, [](L x) { return std::erf(x); });
  check_function<T>(
      "softplus", -80, 80, 3, [](Vec<T> x) { return softplus<T>(x); },
      [](L x) { return x > 60 ? x : std::log1p(std::exp(x)); });
  check_function<T>(
      "logistic", -80, 80, 3, [](Vec<T> x) { return logistic<T>(x).s; },
      [](L x) { return 1 / (1 + std::exp(-x)); });
  check_function<T>(
      "1 - logistic", -80, 80, 3, [](Vec<T> x) { return logistic<T>(x).q; },
      [](L x) { return 1 / (1 + std::exp(x)); });
}

TEST(functions_of_floats_are_accurate) { check_functions<float>(); }
TEST(functions_of_doubles_are_accurate) { check_functions<double>(); }

template <class T>
void check_edges() {
  const T inf = std::numeric_limits<T>::infinity(), huge = std::numeric_limits<T>::max();
  const T nan = std::numeric_limits<T>::quiet_NaN();
  struct Edge {
    T x, exp, expm1, tanh, erf, softplus, s;
  };
  for (const Edge& edge : {Edge{0, 1, 0, 0, 0, static_cast<T>(std::log(2.0L)), T(0.5)},
                           Edge{inf, inf, inf, 1, 1, inf, 1}, Edge{-inf, 0, -1, -1, -1, 0, 0},
                           Edge{huge, inf, inf, 1, 1, huge, 1}, Edge{-huge, 0, -1, -1, -1, 0, 0}}) {
    const Vec<T> x = splat<T>(edge.x);
    CHECK(exp<T>(x)[0] == edge.exp, edge.x);
    CHECK(expm1<T>(x)[0] == edge.expm1, edge.x);
    CHECK(tanh<T>(x)[0] == edge.tanh, edge.x);
    CHECK(erf<T>(x)[0] == edge.erf, edge.x);
    CHECK(softplus<T>(x)[0] == edge.softplus, edge.x);
    CHECK(logistic<T>(x).s[0] == edge.s, edge.x);
    CHECK(logistic<T>(-x).q[0] == edge.s, edge.x);
  }
  const Vec<T> x = splat<T>(nan);
  for (T y : {exp<T>(x)[0], expm1<T>(x)[0], tanh<T>(x)[0], erf<T>(x)[0], softplus<T>(x)[0],
              logistic<T>(x).s[0], log1p_unit<T>(x)[0]})
    CHECK(std::isnan(y));
  CHECK(std::signbit(tanh<T>(splat<T>(T(-0.0)))[0]));
  CHECK(std::signbit(erf<T>(splat<T>(T(-0.0)))[0]));
}

TEST(functions_of_floats_saturate_and_pass_nan) { check_edges<float>(); }
TEST(functions_of_doubles_saturate_and_pass_nan) { check_edges<double>(); }

}  // namespace
}  // namespace fastmaml::test
