// Chooses an instruction set at run time.
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "cpu/kernels.h"

namespace mergesafe::cpu {

#define MS_DECLARE(isa)          \
  namespace isa {                \
  extern const Kernels kKernels; \
  }
#if defined(__x86_64__)
MS_DECLARE(x86_64_v2)
MS_DECLARE(x86_64_v3)
MS_DECLARE(x86_64_v4)
#else
MS_DECLARE(baseline)
#endif

namespace {

struct Entry {
  const Kernels* kernels;
  bool usable;
};

const std::vector<Entry>& entries() {
#if defined(__x86_64__)
  // Whole levels: a hypervisor may mask single features of one.
#define MS_HAS(feature) static_cast<bool>(__builtin_cpu_supports(feature))
  const bool v2 =
      MS_HAS("sse3") && MS_HAS("ssse3") && MS_HAS("sse4.1") && MS_HAS("sse4.2") && MS_HAS("popcnt");
  const bool v3 = v2 && MS_HAS("avx") && MS_HAS("avx2") && MS_HAS("bmi") && MS_HAS("bmi2") &&
                  MS_HAS("fma") && MS_HAS("f16c") && MS_HAS("lzcnt") && MS_HAS("movbe");
  const bool v4 = v3 && MS_HAS("avx512f") && MS_HAS("avx512bw") && MS_HAS("avx512cd") &&
                  MS_HAS("avx512dq") && MS_HAS("avx512vl");
#undef MS_HAS
  static const std::vector<Entry> list = {
      {&x86_64_v2::kKernels, v2}, {&x86_64_v3::kKernels, v3}, {&x86_64_v4::kKernels, v4}};
#else
  static const std::vector<Entry> list = {{&baseline::kKernels, true}};
#endif
  return list;
}

const Kernels* best() {
  const Kernels* found = nullptr;
  for (const Entry& entry : entries())
    if (entry.usable) found = entry.kernels;
  if (found == nullptr)
    throw std::runtime_error("this processor lacks x86-64-v2 (SSE4.2), the least mergesafe needs");
  return found;
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels{best()};
  return kernels;
}

// Of one thread; its floats follow.
struct alignas(64) Scratch {
  int64_t floats;
};

pthread_key_t scratch_key() {
  pthread_key_t key;
  if (pthread_key_create(&key, &std::free) != 0) throw std::bad_alloc();
  return key;
}

}  // namespace

// Not thread_local: where memory has run out, a thread's first use of that ends the process.
float* thread_scratch(int64_t floats) {
  static const pthread_key_t key = scratch_key();
  auto* scratch = static_cast<Scratch*>(pthread_getspecific(key));
  if (scratch == nullptr || scratch->floats < floats) {
    pthread_setspecific(key, nullptr);
    std::free(scratch);
    const int64_t rounded = (floats + 1023) / 1024 * 1024;
    void* made = std::aligned_alloc(alignof(Scratch), sizeof(Scratch) + rounded * sizeof(float));
    if (made == nullptr || pthread_setspecific(key, made) != 0) {
      std::free(made);
      throw std::bad_alloc();
    }
    scratch = new (made) Scratch{rounded};
  }
  return reinterpret_cast<float*>(scratch + 1);
}

const Kernels& current() { return *chosen().load(std::memory_order_relaxed); }

void use(const std::string& name) {
  if (name == "auto") {
    chosen() = best();
    return;
  }
  for (const Entry& entry : entries()) {
    if (name != entry.kernels->name) continue;
    if (!entry.usable)
      throw std::invalid_argument("instruction set '" + name +
                                  "' is not supported by this processor");
    chosen() = entry.kernels;
    return;
  }
  std::string known;
  for (const std::string& each : compiled()) known += (known.empty() ? "" : ", ") + each;
  throw std::invalid_argument("unknown instruction set '" + name + "'; this build has: auto, " +
                              known);
}

std::vector<std::string> available() {
  std::vector<std::string> names;
  for (const Entry& entry : entries())
    if (entry.usable) names.emplace_back(entry.kernels->name);
  return names;
}

std::vector<std::string> compiled() {
  std::vector<std::string> names;
  for (const Entry& entry : entries()) names.emplace_back(entry.kernels->name);
  return names;
}

}  // namespace mergesafe::cpu
