// The sum modulo 2^128 of XXH3-128(block, seed = its number) over blocks of kDigestBlock bytes, the
// last of which may be shorter. A sum, so that tiles can be digested in any order by any worker.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
// Everything static, and vectorised for the flags of this set.
#define XXH_INLINE_ALL
#include "third_party/xxhash.h"

namespace mergesafe::cpu::MS_ISA {
namespace {

void digest(const void* data, int64_t nbytes, uint64_t first_block, uint64_t sum[2]) {
  unsigned __int128 total = 0;
  const char* at = static_cast<const char*>(data);
  for (int64_t begin = 0; begin < nbytes; begin += kDigestBlock, ++first_block) {
    const int64_t left = nbytes - begin;
    const size_t size = static_cast<size_t>(left < kDigestBlock ? left : kDigestBlock);
    const XXH128_hash_t block = XXH3_128bits_withSeed(at + begin, size, first_block);
    total += static_cast<unsigned __int128>(block.high64) << 64 | block.low64;
  }
  sum[0] = static_cast<uint64_t>(total >> 64);
  sum[1] = static_cast<uint64_t>(total);
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
