// C++ tests without a framework: MS_CASE(name) { ... CHECK(...); } in any file of this folder.
#pragma once

#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace unit {

struct Case {
  const char* name;
  void (*run)();
};
std::vector<Case>& cases();
struct Registered {
  Registered(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
std::string shown(const T& value) {
  std::ostringstream text;
  if constexpr (std::is_enum_v<T>)
    text << static_cast<int64_t>(value);
  else
    text << +value;
  return text.str();
}
inline std::string shown(const std::string& value) { return value; }

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

// Makes allocations fail from the given one on (0: the next), or none at -1; of this process.
void fail_allocation(int64_t number);
int64_t allocations();
// Makes new threads fail from the given one on, or none at -1.
void fail_thread(int number);

// Reproducible numbers: xorshift.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t word() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(word() % static_cast<uint64_t>(n)); }

 private:
  uint64_t state_;
};

}  // namespace unit

#define MS_CASE(name)                                            \
  static void name();                                            \
  static const unit::Registered registered_##name(#name, &name); \
  static void name()

#define CHECK(condition) \
  if (!(condition)) unit::fail(__FILE__, __LINE__, #condition)

#define CHECK_EQUAL(a, b)                                                                \
  do {                                                                                   \
    const auto a_ = (a);                                                                 \
    const auto b_ = (b);                                                                 \
    if (!(a_ == b_))                                                                     \
      unit::fail(__FILE__, __LINE__,                                                     \
                 #a " is " + unit::shown(a_) + "; expected " #b ", " + unit::shown(b_)); \
  } while (false)

// `text` is part of what the exception says.
#define CHECK_THROWS(type, text, expression)                                                \
  do {                                                                                      \
    bool thrown_ = false;                                                                   \
    try {                                                                                   \
      expression;                                                                           \
    } catch (const type& error) {                                                           \
      thrown_ = std::strstr(error.what(), text) != nullptr;                                 \
      if (!thrown_) unit::fail(__FILE__, __LINE__, std::string("it says ") + error.what()); \
    }                                                                                       \
    if (!thrown_) unit::fail(__FILE__, __LINE__, #expression " does not throw " #type);     \
  } while (false)
