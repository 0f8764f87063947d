// Conversions: one by one, and as the kernels of every instruction set do them.
#include "core/dtype.h"

#include <cmath>

#include "cpu/run.h"
#include "unit.h"

using namespace mergesafe;
using unit::Random;

namespace {

bool is_nan(uint32_t bits) { return (bits & kAbsMask) > kInfBits; }

// A stored number by its definition: 2^exponent * (1 + fraction), or a subnormal. NaN as the
// format that converts from it keeps it.
double value_of(uint32_t bits, int fraction_bits, int exponent_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const double fraction = bits & ((1u << fraction_bits) - 1);
  const double sign = bits >> (fraction_bits + exponent_bits) & 1 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return fraction == 0.0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign *
         std::ldexp(std::ldexp(1.0, fraction_bits) + fraction, exponent - bias - fraction_bits);
}

// To nearest, ties to even, by its definition; `largest` is the first value that is infinite.
double rounded_to(double value, int fraction_bits, int least_exponent, double largest) {
  if (std::isnan(value) || std::isinf(value) || value == 0.0) return value;
  int exponent;
  std::frexp(value, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 1, least_exponent) - fraction_bits);
  const double nearest = std::nearbyint(value / unit) * unit;
  return std::fabs(nearest) >= largest ? std::copysign(INFINITY, value) : nearest;
}
double rounded_half(double v) { return rounded_to(v, 10, -14, 65536.0); }
double rounded_bf16(double v) { return rounded_to(v, 7, -126, std::ldexp(1.0, 128)); }

template <class T>
uint32_t stored(float value) {
  return to_bits<T>(value);
}

// float32 numbers where rounding decides: around every number of 16 bits and the middle between
// neighbours, and others.
std::vector<float> numbers() {
  std::vector<float> list;
  const auto around = [&](uint32_t bits) {
    for (uint32_t near = bits - 1; near != bits + 2; ++near) list.push_back(float_of(near));
  };
  for (uint32_t bits = 0; bits < 1u << 16; bits += 3) {
    around(bits << 16);
    around(bits << 16 | 0x8000u);
  }
  for (uint32_t half = 0; half < 0x7C00u; ++half) {
    const uint32_t bits = bits_of(to_float(F16{static_cast<uint16_t>(half)}));
    const uint32_t next = bits_of(to_float(F16{static_cast<uint16_t>(half + 1)}));
    const double middle = (static_cast<double>(float_of(bits)) + float_of(next)) / 2.0;
    around(bits_of(static_cast<float>(middle)));
  }
  Random random(1);
  for (int i = 0; i < 50000; ++i) list.push_back(float_of(static_cast<uint32_t>(random.word())));
  return list;
}

void check_rounding(const std::vector<float>& from, const std::vector<uint16_t>& to, bool half) {
  for (size_t i = 0; i < from.size(); ++i) {
    const double value = from[i];
    if (std::isnan(value)) {
      CHECK_EQUAL(to[i], half ? 0x7E00 : 0x7FC0);
      continue;
    }
    const double wanted = half ? rounded_half(value) : rounded_bf16(value);
    const double found = half ? value_of(to[i], 10, 5) : value_of(to[i], 7, 8);
    CHECK_EQUAL(found, wanted);
    CHECK_EQUAL(to[i] >> 15 != 0, bits_of(from[i]) >> 31 != 0);
  }
}

// A copy by the kernel that multiplies with 1.
template <class From, class To>
void copy(const std::vector<From>& from, DType dtype, std::vector<To>& to, DType out) {
  const Input input{from.data(), dtype, dtype};
  const float one = 1.0f;
  to.resize(from.size());
  cpu::run_weighted_sum({&input, &one, 1, {to.data(), out}, false},
                        static_cast<int64_t>(from.size()), 1);
}

template <class Body>
void with_every_isa(Body&& body) {
  for (const std::string& name : cpu::available()) {
    cpu::use(name);
    body();
  }
  cpu::use("auto");
}

}  // namespace

MS_CASE(every_number_of_16_bits_is_read_exactly) {
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const auto narrow = static_cast<uint16_t>(bits);
    const double wide = value_of(bits, 7, 8), half = value_of(bits, 10, 5);
    if (!std::isnan(wide)) CHECK_EQUAL(static_cast<double>(to_float(BF16{narrow})), wide);
    if (!std::isnan(half)) CHECK_EQUAL(static_cast<double>(to_float(F16{narrow})), half);
    CHECK_EQUAL(std::isnan(to_float(BF16{narrow})), std::isnan(wide));
    CHECK_EQUAL(std::isnan(to_float(F16{narrow})), std::isnan(half));
    CHECK_EQUAL(bits_of(to_float(F16{narrow})) >> 31, bits >> 15);
  }
}

MS_CASE(every_number_of_16_bits_comes_back) {
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const auto narrow = static_cast<uint16_t>(bits);
    const bool nan = (bits & 0x7FFFu) > BF16::inf, half_nan = (bits & 0x7FFFu) > F16::inf;
    CHECK_EQUAL(stored<BF16>(to_float(BF16{narrow})), nan ? 0x7FC0u : bits);
    CHECK_EQUAL(stored<F16>(to_float(F16{narrow})), half_nan ? 0x7E00u : bits);
  }
}

MS_CASE(float32_is_kept_but_for_nan) {
  Random random(2);
  for (int i = 0; i < 100000; ++i) {
    const auto bits = static_cast<uint32_t>(random.word());
    CHECK_EQUAL(stored<F32>(float_of(bits)), is_nan(bits) ? 0x7FC00000u : bits);
  }
  for (uint32_t bits : {0x7F800001u, 0x7FFFFFFFu, 0xFF800001u, 0xFFC00000u, 0x7FC00001u})
    CHECK_EQUAL(stored<F32>(float_of(bits)), 0x7FC00000u);
}

MS_CASE(rounding_is_to_nearest_and_ties_to_even) {
  const std::vector<float> from = numbers();
  std::vector<uint16_t> half, wide;
  for (float value : from) {
    half.push_back(static_cast<uint16_t>(stored<F16>(value)));
    wide.push_back(static_cast<uint16_t>(stored<BF16>(value)));
  }
  check_rounding(from, half, true);
  check_rounding(from, wide, false);
}

MS_CASE(ties_of_halves_by_hand) {
  CHECK_EQUAL(stored<F16>(1.0f + 0x1p-11f), 0x3C00u);         // down to even
  CHECK_EQUAL(stored<F16>(1.0f + 0x1.8p-10f), 0x3C02u);       // up to even
  CHECK_EQUAL(stored<F16>(0x1p-25f), 0x0000u);                // half of the least, to 0
  CHECK_EQUAL(stored<F16>(0x1.000002p-25f), 0x0001u);         // a bit more
  CHECK_EQUAL(stored<F16>(65519.996f), 0x7BFFu);              // the largest
  CHECK_EQUAL(stored<F16>(65520.0f), 0x7C00u);                // a tie with infinity
  CHECK_EQUAL(stored<BF16>(float_of(0x3F808000u)), 0x3F80u);  // down to even
  CHECK_EQUAL(stored<BF16>(float_of(0x3F818000u)), 0x3F82u);  // up to even
  CHECK_EQUAL(stored<BF16>(float_of(0x7F7FFFFFu)), 0x7F80u);  // over the largest
  CHECK_EQUAL(stored<BF16>(float_of(0x00000001u)), 0x0000u);  // subnormal
  CHECK_EQUAL(stored<BF16>(float_of(0x80018000u)), 0x8002u);  // subnormal, up to even
}

MS_CASE(kernels_convert_as_single_numbers) {
  const std::vector<float> from = numbers();
  std::vector<uint16_t> all(1 << 16);
  for (size_t bits = 0; bits < all.size(); ++bits) all[bits] = static_cast<uint16_t>(bits);
  with_every_isa([&] {
    std::vector<uint16_t> narrow;
    copy(from, DType::kF32, narrow, DType::kF16);
    check_rounding(from, narrow, true);
    copy(from, DType::kF32, narrow, DType::kBF16);
    check_rounding(from, narrow, false);
    std::vector<uint32_t> wide;
    for (bool half : {false, true}) {
      copy(all, half ? DType::kF16 : DType::kBF16, wide, DType::kF32);
      for (size_t bits = 0; bits < all.size(); ++bits) {
        const uint32_t single =
            half ? stored<F32>(to_float(F16{all[bits]})) : stored<F32>(to_float(BF16{all[bits]}));
        CHECK_EQUAL(wide[bits], single);
      }
    }
    const Input halves{all.data(), DType::kF16, DType::kF16};
    CHECK_EQUAL(cpu::current().count_nonfinite(halves, 1 << 16), 2048);
    // 2 * (2^16 - (65520 as bfloat16)) of the others become infinite when they are cast.
    const Input cast{all.data(), DType::kBF16, DType::kF16};
    int64_t infinite = 0;
    for (uint16_t bits : all) infinite += !std::isfinite(rounded_half(value_of(bits, 7, 8)));
    CHECK_EQUAL(cpu::current().count_nonfinite(cast, 1 << 16), infinite);
  });
}
