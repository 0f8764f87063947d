// Loading and storing chunks of elements as float32. Included once per instruction set.

constexpr int kChunk = 1024;  // elements per step: a few of these stay in the first-level cache

template <class T>
uint32_t convert_in(const T* data, int n, float* out) {
  uint32_t largest = 0;
  for (int j = 0; j < n; ++j) {
    const float value = to_float(data[j]);
    const uint32_t magnitude = bits_of(value) & kAbsMask;
    largest = magnitude > largest ? magnitude : largest;
    out[j] = value;
  }
  return largest;
}

template <class T>
uint32_t round_in_place(float* values, int n) {
  uint32_t largest = 0;
  for (int j = 0; j < n; ++j) {
    const float value = rounded<T>(values[j]);
    const uint32_t magnitude = bits_of(value) & kAbsMask;
    largest = magnitude > largest ? magnitude : largest;
    values[j] = value;
  }
  return largest;
}

inline void zero_nonfinite_in_place(float* values, int n) {
  for (int j = 0; j < n; ++j)
    values[j] = pick((bits_of(values[j]) & kAbsMask) < kInfBits, values[j]);
}

// out[0, n) = input[pos, pos + n) after the cast at load; true when a value was not finite.
inline bool load(const Input& input, int64_t pos, int n, bool zero_nonfinite, float* out) {
  uint32_t largest = 0;
  switch (input.dtype) {
    case DType::kBF16:
      largest = convert_in(static_cast<const BF16*>(input.data) + pos, n, out);
      break;
    case DType::kF16:
      largest = convert_in(static_cast<const F16*>(input.data) + pos, n, out);
      break;
    case DType::kF32:
      largest = convert_in(static_cast<const F32*>(input.data) + pos, n, out);
      break;
  }
  if (input.cast != input.dtype) {
    if (input.cast == DType::kBF16) largest = round_in_place<BF16>(out, n);
    if (input.cast == DType::kF16) largest = round_in_place<F16>(out, n);
  }
  const bool nonfinite = largest >= kInfBits;
  if (nonfinite && zero_nonfinite) zero_nonfinite_in_place(out, n);
  return nonfinite;
}

template <class T>
bool convert_out(const float* values, int n, T* data) {
  using Bits = decltype(T::bits);
  Bits* __restrict__ bits = &data->bits;
  // Not ~Bits{0} >> 1: short integers are promoted to int first.
  constexpr Bits magnitude_mask = std::numeric_limits<Bits>::max() / 2;
  Bits largest = 0;
  for (int j = 0; j < n; ++j) {
    const Bits stored = static_cast<Bits>(to_bits<T>(values[j]));
    const Bits magnitude = stored & magnitude_mask;
    largest = magnitude > largest ? magnitude : largest;
    bits[j] = stored;
  }
  return largest >= T::inf;
}

// Rounds once to the output type; true when a stored value is not finite.
inline bool store(const float* values, int n, const Output& out, int64_t pos) {
  switch (out.dtype) {
    case DType::kBF16: return convert_out(values, n, static_cast<BF16*>(out.data) + pos);
    case DType::kF16: return convert_out(values, n, static_cast<F16*>(out.data) + pos);
    case DType::kF32: break;
  }
  return convert_out(values, n, static_cast<F32*>(out.data) + pos);
}

inline Flags flag(int input, bool set) {
  return static_cast<Flags>(set) << (input < 62 ? input : 62);
}
