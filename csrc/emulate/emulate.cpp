// Fibers for emulated kernels: see cuda_runtime.h beside this.
#include <cuda_runtime.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <memory>
#include <stdexcept>
#include <vector>

namespace emulate {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t kStack = 256 << 10;

enum class Wait { kNothing, kBlock, kWarp, kDone };

struct Fiber {
  ucontext_t context;
  void* stack = nullptr;
  unsigned thread = 0;
  Wait wait = Wait::kNothing;
};

std::vector<std::unique_ptr<Fiber>> fibers;
ucontext_t scheduler;
Fiber* current = nullptr;
const std::function<void()>* kernel = nullptr;
std::vector<uint64_t> exchanged;
int64_t launched = 0;

void run_fiber() {
  for (;;) {
    (*kernel)();
    current->wait = Wait::kDone;
    swapcontext(&current->context, &scheduler);  // comes back with the next block
  }
}

Fiber& fiber(unsigned thread) {
  while (fibers.size() <= thread) {
    auto made = std::make_unique<Fiber>();
    made->stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made->stack == MAP_FAILED) throw std::bad_alloc();
    getcontext(&made->context);
    made->context.uc_stack.ss_sp = made->stack;
    made->context.uc_stack.ss_size = kStack;
    makecontext(&made->context, run_fiber, 0);
    made->thread = static_cast<unsigned>(fibers.size());
    fibers.push_back(std::move(made));
  }
  return *fibers[thread];
}

void resume(Fiber& fiber) {
  current = &fiber;
  thread_index = {fiber.thread, 0, 0};
  swapcontext(&scheduler, &fiber.context);
}

void wait(Wait why) {
  Fiber& self = *current;
  self.wait = why;
  swapcontext(&self.context, &scheduler);
}

// Threads [begin, end) go on if each of them waits for that, or is done.
bool release(unsigned begin, unsigned end, Wait why) {
  bool any = false;
  for (unsigned t = begin; t < end; ++t) {
    const Wait state = fibers[t]->wait;
    if (state != why && state != Wait::kDone) return false;
    any = any || state == why;
  }
  for (unsigned t = begin; t < end && any; ++t)
    if (fibers[t]->wait == why) fibers[t]->wait = Wait::kNothing;
  return any;
}

// Odd blocks run their threads from the last to the first: what depends on the order differs
// between blocks and is seen.
void run_block(unsigned threads, bool backwards) {
  for (unsigned t = 0; t < threads; ++t) fiber(t).wait = Wait::kNothing;
  exchanged.assign(threads, 0);
  for (;;) {
    bool progress = false, left = false;
    for (unsigned at = 0; at < threads; ++at) {
      Fiber& each = *fibers[backwards ? threads - 1 - at : at];
      if (each.wait != Wait::kNothing) continue;
      resume(each);
      progress = true;
    }
    for (unsigned warp = 0; warp < threads; warp += 32)
      progress = release(warp, warp + 32 < threads ? warp + 32 : threads, Wait::kWarp) || progress;
    progress = release(0, threads, Wait::kBlock) || progress;
    for (unsigned t = 0; t < threads; ++t) left = left || fibers[t]->wait != Wait::kDone;
    if (!left) return;
    if (!progress) {
      std::fprintf(stderr, "emulate: threads wait for a barrier that others never reach\n");
      std::abort();
    }
  }
}

}  // namespace

void launch(dim3 grid, unsigned threads, const std::function<void()>& body) {
  kernel = &body;
  ++launched;
  block_size = {threads, 1, 1};
  grid_size = {grid.x, grid.y, grid.z};
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      block_index = {x, y, 0};
      run_block(threads, (x + y) % 2 == 1);
    }
  }
}

void wait_for_block() { wait(Wait::kBlock); }

void exchange(uint64_t value, uint64_t (&from)[32]) {
  const unsigned self = thread_index.x, warp = self / 32 * 32;
  exchanged[self] = value;
  wait(Wait::kWarp);
  for (unsigned lane = 0; lane < 32 && warp + lane < block_size.x; ++lane)
    from[lane] = exchanged[warp + lane];
  wait(Wait::kWarp);
}

int64_t launches() { return launched; }

}  // namespace emulate
