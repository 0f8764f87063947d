// Threads: what they cover, what they throw, and that there may be none.
#include "cpu/parallel.h"

#include <atomic>
#include <mutex>
#include <set>

#include "unit.h"

using namespace mergesafe;
using cpu::parallel_for;

namespace {

struct Range {
  int64_t begin, end;
  bool operator<(const Range& other) const {
    return begin != other.begin ? begin < other.begin : end < other.end;
  }
};

std::set<Range> ranges_of(int64_t n, int threads) {
  std::set<Range> found;
  std::mutex mutex;
  parallel_for(n, threads, [&](int, int64_t begin, int64_t end) {
    std::lock_guard<std::mutex> guard(mutex);
    if (begin < end) found.insert({begin, end});
  });
  return found;
}

void check_cover(int64_t n, int threads) {
  int64_t at = 0;
  for (const Range& range : ranges_of(n, threads)) {
    CHECK_EQUAL(range.begin, at);
    CHECK(range.end == n || range.end % kReduceBlock == 0);
    at = range.end;
  }
  CHECK_EQUAL(at, n);
}

}  // namespace

MS_CASE(threads_cover_all_elements_once) {
  for (int threads = 1; threads <= 8; ++threads)
    for (int64_t n : {0, 1, 4095, 4096, 4097, 8192, 3 * 4096 + 7, 100 * 4096, 1 << 20})
      check_cover(n, threads);
}

MS_CASE(threads_cover_more_elements_than_numbers_multiply) {
  for (int64_t n : {INT64_MAX / 4, (int64_t{1} << 62) - 1, int64_t{1} << 51})
    for (int threads : {2, 3, 7, 8}) check_cover(n, threads);
}

MS_CASE(few_elements_need_few_threads) {
  CHECK_EQUAL(cpu::threads_for(0, 8), 1);
  CHECK_EQUAL(cpu::threads_for(1 << 17, 8), 1);
  CHECK_EQUAL(cpu::threads_for(3 << 17, 8), 3);
  CHECK_EQUAL(cpu::threads_for(INT64_MAX, 8), 8);
  CHECK_EQUAL(cpu::threads_for(INT64_MAX, INT32_MAX), INT32_MAX);
  CHECK_EQUAL(cpu::threads_for(INT64_MAX, -1), 1);
}

MS_CASE(an_exception_of_any_thread_arrives) {
  for (int thrower = 0; thrower < 8; ++thrower) {
    std::atomic<int> ended{0};
    CHECK_THROWS(std::bad_alloc, "bad_alloc",
                 parallel_for(1 << 20, 8, [&](int t, int64_t, int64_t) {
                   if (t == thrower) throw std::bad_alloc();
                   ++ended;
                 }));
    CHECK_EQUAL(ended.load(), 7);  // the others ran to their end
  }
}

MS_CASE(every_thread_may_throw) {
  CHECK_THROWS(std::runtime_error, "0", parallel_for(1 << 20, 8, [](int t, int64_t, int64_t) {
                 throw std::runtime_error(std::to_string(t));
               }));
}

MS_CASE(without_new_threads_the_caller_does_it_all) {
  for (int started = 0; started <= 8; ++started) {
    unit::fail_thread(started);
    check_cover(1 << 20, 8);
  }
  unit::fail_thread(0);
  CHECK_THROWS(std::runtime_error, "5", parallel_for(1 << 20, 8, [](int t, int64_t, int64_t) {
                 if (t == 5) throw std::runtime_error(std::to_string(t));
               }));
}

MS_CASE(without_memory_for_threads_the_caller_does_it_all_or_says_so) {
  int64_t refused = 0;
  for (int64_t first = 0; first < 40; ++first) {
    std::atomic<int64_t> done{0};
    unit::fail_allocation(first);
    try {
      parallel_for(1 << 20, 8, [&](int, int64_t begin, int64_t end) { done += end - begin; });
      unit::fail_allocation(-1);
      CHECK_EQUAL(done.load(), 1 << 20);
    } catch (const std::bad_alloc&) {
      unit::fail_allocation(-1);
      CHECK_EQUAL(done.load(), 0);
      ++refused;
    }
  }
  CHECK(refused > 0 && refused < 40);
}
