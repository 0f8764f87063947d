// Philox4x32-10 against the known answers of Random123, and the words that elements get.
#include "core/philox.h"

#include <array>

#include "unit.h"

using namespace mergesafe;

namespace {

using Words = std::array<uint32_t, 4>;

// The paper's definition, apart from core/philox.h.
Words paper(Words c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

Words words(uint64_t counter, uint64_t key) {
  Words w;
  philox(counter, key, w[0], w[1], w[2], w[3]);
  return w;
}

}  // namespace

MS_CASE(philox_known_answers) {
  CHECK(paper({0, 0, 0, 0}, 0, 0) == (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK(paper({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u) ==
        (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK(paper({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) ==
        (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  CHECK(words(0, 0) == (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

MS_CASE(philox_counts_in_64_bits) {
  unit::Random random(3);
  for (int i = 0; i < 10000; ++i) {
    const uint64_t counter = random.word() >> random.below(64), key = random.word();
    CHECK(words(counter, key) ==
          paper({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0},
                static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)));
  }
}
