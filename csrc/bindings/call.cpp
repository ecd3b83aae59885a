#include "bindings/call.hpp"

#include <string>
#include <utility>

#include "core/error.hpp"
#include "ops/op.hpp"
#include "ops/operand.hpp"
#include "ops/registry.hpp"

namespace py = pybind11;

namespace fastmaml {
namespace {

#ifdef FASTMAML_SIMT_MODULE
constexpr int32_t kDevice = dlpack::kCpu;  // device code that runs on the host
#else
constexpr int32_t kDevice = dlpack::kCuda;
#endif

constexpr dlpack::DataType kClass{dlpack::kInt, 64, 1}, kByte{dlpack::kUInt, 8, 1};

// A product of sizes that memory could hold.
int64_t times(int64_t a, int64_t b) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) throw py::type_error("expected fewer tasks");
  return product;
}

// Takes the tensors of one call.
struct Taker {
  dlpack::DataType dtype;
  int32_t device;

  void* take(const char* what, const Memory& memory, int64_t count, dlpack::DataType wanted) const {
    if (memory.dtype == wanted && memory.dense && memory.count == count &&
        (memory.device == device || count == 0))
      return memory.begin;
    throw py::type_error(message("expected ", count, " contiguous numbers of ", int{wanted.bits},
                                 " bits for ", what, ", got ", memory.count,
                                 memory.dense ? "" : ", strided,", " of ", int{memory.dtype.bits},
                                 memory.device == device ? "" : " on another device"));
  }

  void* take(const char* what, py::handle tensor, int64_t count, dlpack::DataType wanted) const {
    return take(what, memory_of(tensor), count, wanted);
  }

  template <class Pointer>
  std::vector<Pointer> all(const char* what, const Tensors& tensors,
                           const std::vector<int64_t>& counts, int64_t times_each) const {
    if (tensors.memory.size() != counts.size())
      throw py::type_error(message("expected ", counts.size(), " tensors for ", what, ", got ",
                                   tensors.memory.size()));
    std::vector<Pointer> found;
    found.reserve(counts.size());
    for (size_t i = 0; i < counts.size(); ++i)
      found.push_back(take(what, tensors.memory[i], times(times_each, counts[i]), dtype));
    return found;
  }
};

}  // namespace

Door::Door(const NetworkSpec& network, const Settings& settings, const Shape& output)
    : settings_(settings),
      classes_(find_loss(network.loss.op)->reads_classes()),
      row_(numel(network.row_shape)),
      output_(numel(output)),
      target_(classes_ ? 1 : output_) {
  for (const TensorSpec& tensor : network.tensors) {
    tensors_.push_back(numel(tensor.shape));
    if (has_output(settings, tensor)) outputs_.push_back(tensors_.back());
  }
}

Call Door::open(int64_t tasks, int threads, int lanes, py::handle support_x, py::handle support_y,
                py::handle query_x, py::handle query_y, std::vector<double> rates,
                const Tensors& tensors, const Tensors& outputs, py::handle task_losses,
                py::handle logits, py::handle rate_dots, py::handle workspace,
                size_t workspace_bytes, const Place& place, py::handle scalars) const {
  const Settings& s = settings_;
  const uint8_t bits = s.dtype == Dtype::f32 ? 32 : 64;
  const Taker of{{dlpack::kFloat, bits, 1}, place.device < 0 ? dlpack::kCpu : kDevice};
  const dlpack::DataType y_dtype = classes_ ? kClass : of.dtype;
  const int64_t support = times(tasks, s.support_rows), query = times(tasks, s.query_rows);
  const int64_t points = s.mode == Mode::curve ? s.inner_steps + 1 : 1;
  Call call;
  call.tasks = tasks, call.threads = threads, call.lanes = lanes, call.rates = std::move(rates);
  call.support_x = of.take("support_x", support_x, times(support, row_), of.dtype);
  call.support_y = of.take("support_y", support_y, times(support, target_), y_dtype);
  call.tensors = of.all<const void*>("tensors", tensors, tensors_, 1);
  call.task_losses = of.take("task_losses", task_losses, times(points, tasks), of.dtype);
  if (s.mode == Mode::adapt) {
    call.fast = of.all<void*>("outputs", outputs, outputs_, tasks);
  } else {
    call.query_x = of.take("query_x", query_x, times(query, row_), of.dtype);
    call.query_y = of.take("query_y", query_y, times(query, target_), y_dtype);
    call.logits = of.take("logits", logits, times(times(points, query), output_), of.dtype);
    if (s.mode == Mode::meta_step) call.grads = of.all<void*>("outputs", outputs, outputs_, 1);
  }
  if (s.rate_grad)
    call.rate_dots = of.take("rate_dots", rate_dots, times(tasks, s.inner_steps), of.dtype);
  const Memory room = memory_of(workspace);
  if (room.count < 0 || static_cast<size_t>(room.count) < workspace_bytes)
    throw py::type_error("expected a workspace of as many bytes as are said to be there");
  call.workspace = of.take("workspace", room, room.count, kByte);
  call.workspace_bytes = workspace_bytes;
  if (!scalars.is_none()) {
    const Memory numbers = memory_of(scalars);
    const int64_t least = Scalars::count(s.inner_steps);
    call.scalars = of.take("scalars", numbers, std::max(least, numbers.count), of.dtype);
  }
  if (!place.tables.is_none()) {
    const Memory tables = memory_of(place.tables);
    call.tables = of.take("tables", tables, tables.count, kByte);
  }
  call.device = place.device, call.team = place.team, call.all_threads = place.all_threads;
  call.stream = reinterpret_cast<void*>(place.stream);
  return call;
}

}  // namespace fastmaml
