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

MS_FN void philox_round(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, uint32_t k0,
                        uint32_t k1) {
  const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * c0;
  const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * c2;
  const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
  const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
  c1 = static_cast<uint32_t>(p1);
  c3 = static_cast<uint32_t>(p0);
  c0 = n0;
  c2 = n2;
}

// The four words of one counter, (low, high) of `counter` in the first two counter words.
MS_FN void philox(uint64_t counter, uint64_t key, uint32_t& w0, uint32_t& w1, uint32_t& w2,
                  uint32_t& w3) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  w0 = static_cast<uint32_t>(counter);
  w1 = static_cast<uint32_t>(counter >> 32);
  w2 = 0;
  w3 = 0;
  for (int round = 0; round < 10; ++round) {
    philox_round(w0, w1, w2, w3, k0, k1);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
}

}  // namespace mergesafe
