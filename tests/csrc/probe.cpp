#include "probe.h"

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <thread>

namespace mergesafe {
namespace {

// What the compiler cannot know.
volatile int one = 1;
int shared = 0;

int heap(bool freed) {
  auto block = std::make_unique<int[]>(8);
  const int* at = block.get();
  if (freed) block.reset();
  return at[freed ? one : 8 * one];
}

int stack() {
  int array[8] = {};
  array[8 * one] = 1;
  return array[one];
}

int race() {
  std::thread other([] { shared += one; });
  shared += one;
  other.join();
  return shared;
}

int cast() {
  const float large = 1e20f * static_cast<float>(one);
  return static_cast<int>(large);
}

int aligned() {
  alignas(8) char bytes[16] = {};
  return *reinterpret_cast<const volatile int*>(bytes + one);
}

}  // namespace

int probe(const std::string& fault) {
  if (fault == "heap") return heap(false);
  if (fault == "freed") return heap(true);
  if (fault == "stack") return stack();
  if (fault == "overflow") return INT32_MAX + one;
  if (fault == "shift") return one << (32 * one);
  if (fault == "cast") return cast();
  if (fault == "aligned") return aligned();
  if (fault == "race") return race();
  throw std::invalid_argument("no such fault: " + fault);
}

}  // namespace mergesafe
