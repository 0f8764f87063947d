// Running without Python's global lock.
#pragma once

#include <Python.h>

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

}  // namespace mergesafe
