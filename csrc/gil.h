// Running without Python's global lock, in a floating-point environment of our own.
#pragma once

#include <Python.h>

#include <cfenv>

#if defined(__linux__)
#include <unistd.h>
#endif

namespace mergesafe {

// Without the lock while it exists. An interpreter that ends lets no other thread have the lock
// again: before version 3.14 it ends a daemon thread there, by an exception that would leave a
// destructor and so end the process with SIGABRT. As in 3.14, the thread waits for the end instead.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
#if defined(__linux__)
      for (;;) pause();
#else
      throw;
#endif
    }
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// Runs without the GIL and in the default floating-point environment, which new threads inherit:
// torch.set_flush_denormal, or a library built with -ffast-math, must not change a merge.
class Kernel {
 public:
  Kernel() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~Kernel() { std::fesetenv(&saved_); }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

 private:
  WithoutGil release_;
  std::fenv_t saved_;
};

}  // namespace mergesafe
