// Fibers: stacks of their own on one processor thread, switched by hand.
//
// ucontext makes a stack, _setjmp and _longjmp switch: unlike swapcontext they save no signal mask,
// which would be a system call each time.
#pragma once

#include <csetjmp>
#include <functional>
#include <memory>

namespace simt {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs `body` on the fiber until it yields or returns; then the caller goes on.
  void start(const std::function<void()>& body);
  void resume();
  // Called on the fiber: back to whoever started or resumed it.
  void yield();
  bool done() const { return done_; }
  const char* stack() const;
  static size_t stack_bytes();
  // Forgets what the fiber was doing; it can be started again.
  void abandon() { done_ = restart_ = true; }

 private:
  static void entry(unsigned high, unsigned low);
  void loop();

  struct Stack;
  std::unique_ptr<Stack> stack_;
  jmp_buf fiber_, caller_;
  const std::function<void()>* body_ = nullptr;
  bool done_ = true, made_ = false, restart_ = false;
};

}  // namespace simt
