// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
// counted by element index so that any chunk of a tensor can be masked on its own.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace mergesafe {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u;
constexpr uint32_t kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxW1 = 0xBB67AE85u;

// Element e of a tensor takes output word (e / 16) % 4 of counter 16 * (e / 64) + e % 16: sixteen
// neighbours use one word of sixteen consecutive counters, which suits 16-lane registers and
// 16-byte loads alike.
constexpr int kPhiloxGroup = 64;
constexpr int kPhiloxLanes = 16;

// One counter, whose words are 32-bit numbers. A wide type of words (cpu/masks.inl) has the same
// two members.
struct PhiloxWord {
  using Word = uint32_t;
  static MS_FN void multiply(Word a, uint32_t b, Word& high, Word& low) {
    const uint64_t product = static_cast<uint64_t>(b) * a;
    high = static_cast<Word>(product >> 32);
    low = static_cast<Word>(product);
  }
};

// The ten rounds, on four words of as many counters as the type holds.
template <class Type, class Word = typename Type::Word>
MS_FN void philox_rounds(uint64_t key, Word& c0, Word& c1, Word& c2, Word& c3) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    Word high0, low0, high1, low1;
    Type::multiply(c0, kPhiloxM0, high0, low0);
    Type::multiply(c2, kPhiloxM1, high1, low1);
    c0 = high1 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = low1;
    c3 = low0;
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
}

// The four words of one counter, (low, high) of `counter` in the first two counter words.
MS_FN void philox(uint64_t counter, uint64_t key, uint32_t& w0, uint32_t& w1, uint32_t& w2,
                  uint32_t& w3) {
  w0 = static_cast<uint32_t>(counter);
  w1 = static_cast<uint32_t>(counter >> 32);
  w2 = 0;
  w3 = 0;
  philox_rounds<PhiloxWord>(key, w0, w1, w2, w3);
}

}  // namespace mergesafe
