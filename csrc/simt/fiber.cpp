#include "simt/fiber.hpp"

#include <ucontext.h>

#include <cstdint>
#include <new>
#include <stdexcept>

namespace simt {

struct Fiber::Stack {
  static constexpr size_t kBytes = 128 * 1024;
  alignas(64) char bytes[kBytes];
};

Fiber::Fiber() : stack_(new Stack) {}
Fiber::~Fiber() = default;

void Fiber::entry(unsigned high, unsigned low) {
  const auto address = static_cast<uintptr_t>(high) << 32 | low;
  reinterpret_cast<Fiber*>(address)->loop();
}

// One body after another, so that a stack is made once. Never returns: nothing is below it.
void Fiber::loop() {
  for (;;) {
    (*body_)();
    done_ = true;
    yield();
  }
}

void Fiber::start(const std::function<void()>& body) {
  if (!done_) throw std::logic_error("a fiber was started that is not done");
  body_ = &body, done_ = false;
  // A fiber that ended is at its yield in `loop`; one that was abandoned begins a fresh stack.
  if (made_ && !restart_) return resume();
  made_ = true, restart_ = false;
  ucontext_t context, here;
  if (getcontext(&context) != 0) throw std::runtime_error("getcontext failed");
  context.uc_stack.ss_sp = stack_->bytes;
  context.uc_stack.ss_size = Stack::kBytes;
  context.uc_link = nullptr;
  const auto address = reinterpret_cast<uintptr_t>(this);
  makecontext(&context, reinterpret_cast<void (*)()>(&Fiber::entry), 2,
              static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
  if (_setjmp(caller_) == 0) swapcontext(&here, &context);
}

void Fiber::resume() {
  if (_setjmp(caller_) == 0) _longjmp(fiber_, 1);
}

void Fiber::yield() {
  if (_setjmp(fiber_) == 0) _longjmp(caller_, 1);
}

const char* Fiber::stack() const { return stack_->bytes; }
size_t Fiber::stack_bytes() { return Stack::kBytes; }

}  // namespace simt
