// Networks to test on, with random data, and one call of the engine over them.
#pragma once

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fastmaml.hpp"

namespace fastmaml::test {

// A network being described, layer by layer; every method gives the id of its output value.
class Builder {
 public:
  explicit Builder(Shape row_shape);
  int linear(int x, int64_t out, bool bias = true, bool trainable = true);
  int batch_norm(int x, bool batch_stats, bool affine = true);
  // A square window over images; the output's size follows from it.
  int conv2d(int x, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t groups = 1);
  int pool2d(const std::string& op, int x, int64_t kernel, int64_t stride, int64_t pad);
  int adaptive_avg_pool2d(int x, int64_t height, int64_t width);
  int add(int x, int y);
  int reshape(int x, Shape shape);
  int pointwise(const std::string& op, int x, std::map<std::string, double> attrs = {});
  NetworkSpec finish(int output, const std::string& loss, std::map<std::string, double> attrs = {});

 private:
  int node(NodeSpec spec);
  int window(NodeSpec spec, int64_t kernel, int64_t stride, int64_t pad);
  int tensor(Shape shape, bool trainable = true);

  NetworkSpec spec_;
  std::vector<Shape> shapes_;
};

struct NetworkCase {
  std::string name;
  NetworkSpec network;
  int factored = -1;
  bool smooth = true;  // false: maxima, whose kinks central differences may straddle
  int winograd = -1;
  int64_t moment_bytes = -1;
};

// Every op, both forms of the weights, every loss.
std::vector<NetworkCase> network_cases();

// Memory of exactly `bytes` bytes at an address that the workspace may have.
class Workspace {
 public:
  Workspace(size_t bytes, int fill) : bytes_(bytes) {
    if (posix_memalign(&memory_, 64, bytes) != 0) throw std::bad_alloc();
    std::memset(memory_, fill, bytes);
  }
  ~Workspace() { std::free(memory_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const { return memory_; }
  size_t bytes() const { return bytes_; }

 private:
  void* memory_ = nullptr;
  size_t bytes_;
};

// Data for one network, and what a call over them writes. Every array has exactly its size.
template <class T>
struct Problem {
  NetworkSpec network;
  Settings settings;
  int64_t tasks;
  int lanes = 0;            // of `run`
  bool all_threads = true;  // of `run`: small calls would otherwise be over before others join
  Poll poll;                // of `run`
  std::vector<T> support_x, query_x, support_y, query_y;
  std::vector<int64_t> support_classes, query_classes;
  std::vector<std::vector<T>> theta;

  Problem(const NetworkSpec& spec, const Settings& settings, int64_t tasks, unsigned seed);

  struct Result {
    std::vector<T> losses, logits, rate_dots;
    std::vector<std::vector<T>> outputs;  // meta-gradients, or fast weights
    bool operator==(const Result&) const = default;
  };

  // `fill` is the byte the workspace holds before the run; `times` asks for a profiled one.
  Result run(const Plan& plan, int threads, int fill = 0,
             std::vector<InstructionTime>* times = nullptr) const;
  Result run(int threads = 1, int fill = 0) const {
    return run(Plan(network, settings), threads, fill);
  }
  T mean_loss() const;  // after adaptation
};

}  // namespace fastmaml::test
