// Runs all tests, or those that are named, a line each: "ok NAME" or "FAILED NAME: what". In builds
// with sanitizers `--probe FAULT` commits one.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "unit.h"

#if defined(MERGESAFE_SANITIZE)
#include "../probe.h"
#endif

namespace {

std::atomic<int64_t> allocated{0}, last{-1};
std::atomic<int> threads_left{-1};

bool refused() {
  const int64_t at = allocated.fetch_add(1, std::memory_order_relaxed);
  const int64_t limit = last.load(std::memory_order_relaxed);
  return limit >= 0 && at >= limit;
}

void* take(size_t size) {
  void* block = refused() ? nullptr : std::malloc(size > 0 ? size : 1);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

}  // namespace

// In place of the library's, for the whole process.
void* operator new(size_t size) { return take(size); }
void* operator new[](size_t size) { return take(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return refused() ? nullptr : std::malloc(size > 0 ? size : 1);
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, size_t) noexcept { std::free(block); }
void operator delete[](void* block, size_t) noexcept { std::free(block); }

#define MS_EXPORTED extern "C" __attribute__((visibility("default")))

MS_EXPORTED int pthread_create(pthread_t* thread, const pthread_attr_t* how, void* (*run)(void*),
                               void* with) noexcept {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto real = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (threads_left.load() == 0) return EAGAIN;
  if (threads_left.load() > 0) --threads_left;
  return real(thread, how, run, with);
}

// Of the kernels' scratch memory.
MS_EXPORTED void* aligned_alloc(size_t alignment, size_t size) noexcept {
  using Allocate = void* (*)(size_t, size_t);
  static const auto real = reinterpret_cast<Allocate>(dlsym(RTLD_NEXT, "aligned_alloc"));
  return refused() ? nullptr : real(alignment, size);
}

namespace unit {

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

void fail_allocation(int64_t number) { last = number < 0 ? -1 : allocated.load() + number; }
int64_t allocations() { return allocated.load(); }
void fail_thread(int number) { threads_left = number; }

}  // namespace unit

int main(int count, char** arguments) {
#if defined(MERGESAFE_SANITIZE)
  if (count == 3 && std::strcmp(arguments[1], "--probe") == 0) {
    std::printf("%d\n", mergesafe::probe(arguments[2]));
    return 0;
  }
#endif
  int failed = 0;
  for (const unit::Case& each : unit::cases()) {
    bool wanted = count == 1;
    for (int i = 1; i < count; ++i) wanted = wanted || std::strcmp(arguments[i], each.name) == 0;
    if (!wanted) continue;
    try {
      each.run();
      std::printf("ok %s\n", each.name);
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED %s: %s\n", each.name, error.what());
    }
    unit::fail_allocation(-1);
    unit::fail_thread(-1);
    std::fflush(stdout);
  }
  return failed > 0;
}
