// Digests: sums of XXH3-128 over numbered blocks, in any order and in any tiles.
#include <algorithm>

#include "cpu/run.h"
#include "unit.h"

#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_SCALAR
#include "third_party/xxhash.h"

using namespace mergesafe;
using Sum = unsigned __int128;

namespace {

Sum digest(const std::vector<uint8_t>& data, int64_t begin, int64_t end) {
  uint64_t sum[2];
  cpu::current().digest(data.data() + begin, end - begin,
                        static_cast<uint64_t>(begin / cpu::kDigestBlock), sum);
  return static_cast<Sum>(sum[0]) << 64 | sum[1];
}

Sum defined(const std::vector<uint8_t>& data, uint64_t block) {
  Sum total = 0;
  for (size_t at = 0; at < data.size(); at += cpu::kDigestBlock, ++block) {
    const size_t size = std::min<size_t>(data.size() - at, cpu::kDigestBlock);
    const XXH128_hash_t hash = XXH3_128bits_withSeed(data.data() + at, size, block);
    total += static_cast<Sum>(hash.high64) << 64 | hash.low64;
  }
  return total;
}

std::vector<uint8_t> bytes(int64_t size) {
  unit::Random random(4);
  std::vector<uint8_t> data(static_cast<size_t>(size));
  for (uint8_t& each : data) each = static_cast<uint8_t>(random.word());
  return data;
}

}  // namespace

MS_CASE(digests_are_sums_of_blocks) {
  for (const std::string& name : cpu::available()) {
    cpu::use(name);
    for (int64_t size : {0, 1, 7, 8191, 8192, 8193, 3 * 8192 + 5, 300000})
      CHECK(digest(bytes(size), 0, size) == defined(bytes(size), 0));
  }
  cpu::use("auto");
  CHECK(digest({}, 0, 0) == 0);
}

MS_CASE(digests_of_tiles_add_up) {
  const int64_t size = 50 * cpu::kDigestBlock + 77;
  const std::vector<uint8_t> data = bytes(size);
  const Sum whole = digest(data, 0, size);
  unit::Random random(5);
  for (int round = 0; round < 20; ++round) {
    Sum total = 0;
    for (int64_t at = 0; at < size;) {
      const int64_t end = std::min(size, at + (1 + random.below(9)) * cpu::kDigestBlock);
      total += digest(data, at, end);
      at = end;
    }
    CHECK(total == whole);
  }
}

MS_CASE(a_digest_sees_bits_and_places) {
  std::vector<uint8_t> data = bytes(3 * cpu::kDigestBlock);
  const Sum whole = digest(data, 0, 3 * cpu::kDigestBlock);
  data[12345] ^= 16;
  CHECK(digest(data, 0, 3 * cpu::kDigestBlock) != whole);
  data[12345] ^= 16;
  std::rotate(data.begin(), data.begin() + cpu::kDigestBlock, data.end());
  CHECK(digest(data, 0, 3 * cpu::kDigestBlock) != whole);
}
