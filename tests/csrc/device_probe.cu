// Compiles every function of csrc/core for a device, to prove that the headers are device-ready and
// that no multiply-add is contracted. It is compiled to PTX and never run.
#include "core/element.h"
#include "core/gradient.h"
#include "core/philox.h"
#include "core/reduce.h"

namespace ms = mergesafe;

extern "C" __global__ void probe_elements(const uint16_t* base, const uint16_t* expert, float* out,
                                          uint16_t* stored, float rescale, float weight,
                                          float scale, int lo, int hi) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  const float b = ms::to_float(ms::BF16{base[j]});
  const float x = ms::to_float(ms::F16{expert[j]});
  const float delta = x - b;
  const float d = ms::weighted(ms::in_window(delta, ms::window(lo, hi)), delta, rescale, weight);
  const float total = d + ms::sign(d);
  const bool kept = ms::agrees(d, ms::elected_flip(total));
  out[j] = ms::finish(b, total + ms::pick(kept, d), weight + rescale, scale);
  stored[2 * j] = static_cast<uint16_t>(ms::to_bits<ms::BF16>(out[j]));
  stored[2 * j + 1] = static_cast<uint16_t>(ms::to_bits<ms::F16>(out[j]));
}

// As sums of weighted inputs are written: with contraction allowed, this one is contracted.
extern "C" __global__ void probe_sum(const float* x, const float* weights, float* out, int count) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  const float total = x[2 * j] * weights[0] + x[2 * j + 1] * weights[1];
  const bool same = ms::sums_to_one(weights, count) & ms::same_bits(x[2 * j], x[2 * j + 1]);
  out[j] = same ? x[2 * j] : total;
}

extern "C" __global__ void probe_random(uint32_t* words, uint64_t key) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  ms::philox(j, key, words[4 * j], words[4 * j + 1], words[4 * j + 2], words[4 * j + 3]);
}

extern "C" __global__ void probe_reduce(const double* lanes, double* sums) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  sums[j] = ms::add_lanes(lanes + j * ms::kReduceLanes);
}
