"""csrc/core in Triton: conversions, magnitudes, Philox, and one element of a merge, bit for bit.

Values are loaded and stored as bit patterns and converted by integer arithmetic, like dtype.h:
Triton's interpreter truncates bfloat16, and devices differ in the NaN that they write. Of
triton.language only builtins are called, for its library functions (tl.sum, tl.zeros, ...) cannot
be interpreted where Triton itself was imported for compilation.

``vector`` points at an expert's mask, int32 bit patterns of (lo, hi, low half of the key, high half
of the key, threshold, rescale).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def bits_of(value):
    return value.to(tl.uint32, bitcast=True)


@triton.jit
def float_of(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def load(pointer, index, inside):
    """Float32 values, exactly; 0 where not ``inside``."""
    stored = tl.load(pointer + index, mask=inside, other=0)
    if pointer.dtype.element_ty == tl.float32:
        value = stored
    elif pointer.dtype.element_ty == tl.bfloat16:
        value = float_of(stored.to(tl.uint16, bitcast=True).to(tl.uint32) << 16)
    else:
        value = float_of_half(stored.to(tl.uint16, bitcast=True).to(tl.uint32))
    return value


@triton.jit
def float_of_half(bits):
    """Scaling by 2^112 moves the exponent's bias; infinity and NaN get their exponent by hand."""
    magnitude = (bits & 0x7FFF) << 13
    scaled = bits_of(float_of(magnitude) * 5.192296858534828e33)
    value = tl.where(magnitude >= 0x0F800000, magnitude | 0x7F800000, scaled)
    return float_of(value | ((bits & 0x8000) << 16))


@triton.jit
def store(pointer, index, inside, value):
    """Rounds to nearest even; NaN becomes the one canonical NaN."""
    bits = bits_of(value)
    magnitude = bits & 0x7FFFFFFF
    nan = magnitude > 0x7F800000
    if pointer.dtype.element_ty == tl.float32:
        stored = float_of(tl.where(nan, 0x7FC00000, bits))
    elif pointer.dtype.element_ty == tl.bfloat16:
        rounded = tl.where(nan, 0x7FC00000, bits + 0x7FFF + ((bits >> 16) & 1))
        stored = (rounded >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        normal = (magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13
        # below 2^-14: adding 0.5 makes the float unit do the rounding at 2^-24
        tiny = bits_of(float_of(magnitude) + 0.5) - 0x3F000000
        half = tl.where(magnitude < 0x38800000, tiny, normal)
        half = tl.where(magnitude >= 0x47800000, 0x7C00, half) | ((bits >> 16) & 0x8000)
        half = tl.where(nan, 0x7E00, half)
        stored = half.to(tl.uint16).to(tl.float16, bitcast=True)
    tl.store(pointer + index, stored, mask=inside)


@triton.jit
def pick(condition, value):
    """``value`` where the condition holds, else +0."""
    return tl.where(condition, value, 0.0)


@triton.jit
def magnitude_bits(delta):
    """The bits of ``|delta|`` as int32; every NaN counts as the one value just above infinity."""
    magnitude = (bits_of(delta) & 0x7FFFFFFF).to(tl.int32, bitcast=True)
    return tl.minimum(magnitude, 0x7F800001)


@triton.jit
def philox(counter, key_low, key_high):
    """The four Philox4x32-10 words of int64 counters (csrc/core/philox.h)."""
    c0 = counter.to(tl.uint32)
    c1 = (counter >> 32).to(tl.uint32)
    c2 = c0 & 0
    c3 = c0 & 0
    k0 = key_low.to(tl.uint32, bitcast=True)
    k1 = key_high.to(tl.uint32, bitcast=True)
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        n0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        n2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = p1.to(tl.uint32)
        c3 = p0.to(tl.uint32)
        c0 = n0
        c2 = n2
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def vector_at(vectors, row, i, COUNT: tl.constexpr):
    """The mask of expert i in job ``row`` of ``vectors`` [jobs, COUNT, 6]."""
    return vectors + (row * COUNT + i) * 6


@triton.jit
def random_mask(element, vector):
    """The masks of int64 elements: word (e / 16) % 4 of counter 16 * (e / 64) + e % 16 decides."""
    counter = ((element >> 6) << 4) | (element & 15)
    w0, w1, w2, w3 = philox(counter, tl.load(vector + 2), tl.load(vector + 3))
    place = (element >> 4) & 3
    word = tl.where(place < 2, tl.where(place == 0, w0, w1), tl.where(place == 2, w2, w3))
    return word < tl.load(vector + 4).to(tl.uint32, bitcast=True)


@triton.jit
def random_masks(group, vector, BLOCK: tl.constexpr):
    """The random masks of BLOCK elements from element 64 * ``group``, every word computed once."""
    groups = group + tl.arange(0, BLOCK // 64)
    counter = (groups << 4)[:, None] | tl.arange(0, 16)[None, :]
    w0, w1, w2, w3 = philox(counter, tl.load(vector + 2), tl.load(vector + 3))
    threshold = tl.load(vector + 4).to(tl.uint32, bitcast=True)
    # [group, lane, word / 2, word % 2] -> [group, word / 2, word % 2, lane]
    even = tl.join(w0 < threshold, w2 < threshold)
    odd = tl.join(w1 < threshold, w3 < threshold)
    return tl.reshape(tl.permute(tl.join(even, odd), (0, 2, 3, 1)), (BLOCK,))


@triton.jit
def in_window(delta, vector):
    """The mask of magnitudes between two bounds."""
    magnitude = magnitude_bits(delta)
    return (magnitude >= tl.load(vector)) & (magnitude <= tl.load(vector + 1))


@triton.jit
def rescaled(keep, delta, vector):
    """What survives of a task vector."""
    return pick(keep, delta * tl.load(vector + 5).to(tl.float32, bitcast=True))


@triton.jit
def weighted(keep, delta, vector, weight):
    """The same times a weight; what is dropped is +0 whatever the weight."""
    return pick(keep, (delta * tl.load(vector + 5).to(tl.float32, bitcast=True)) * weight)


@triton.jit
def signs_agree(value, positive):
    """Whether values have the elected sign; an exact zero and a NaN never do."""
    return tl.where(positive, value > 0.0, value < 0.0)


@triton.jit
def elected_positive(parts, COUNT: tl.constexpr, ELECT: tl.constexpr):
    """Whether + is elected: a total of zero elects +, a NaN elects -."""
    total = 0.0
    for i in tl.static_range(COUNT):
        if ELECT == "count":
            total = total + (pick(parts[i] > 0.0, 1.0) - pick(parts[i] < 0.0, 1.0))
        else:
            total = total + parts[i]
    return total >= 0.0


@triton.jit
def elected_sums(parts, positive, weights, COUNT: tl.constexpr):
    """Sums of the parts, and of their weights, that agree with the elected sign."""
    total = 0.0
    divisor = 0.0
    for i in tl.static_range(COUNT):
        agrees = signs_agree(parts[i], positive)
        total = total + pick(agrees, parts[i])
        divisor = divisor + pick(agrees, tl.load(weights + i))
    return total, divisor


@triton.jit
def changed(base, change):
    """``base + change``, and the base itself where the change is a zero of either sign."""
    return tl.where(change == 0.0, base, base + change)


@triton.jit
def differs_from_one(weights, COUNT: tl.constexpr):
    """0 where the weights add up to 1 but for their rounding (csrc/core/element.h), else 1."""
    total = tl.load(weights)
    for i in tl.static_range(1, COUNT):
        total = total + tl.load(weights + i)
    distance = float_of(bits_of(total - 1.0) & 0x7FFFFFFF)
    # COUNT * 2^-23, exactly
    return tl.where(distance <= COUNT * 1.1920928955078125e-07, 0, 1).to(tl.uint32)


@triton.jit
def sum_of_weights(weights, COUNT: tl.constexpr, SMALLEST: tl.constexpr):
    """What is divided by without election: the sum, or 1 where its bits are below SMALLEST."""
    total = 0.0
    for i in tl.static_range(COUNT):
        total = total + tl.load(weights + i)
    return tl.where((bits_of(total) & 0x7FFFFFFF) < SMALLEST, 1.0, total)
