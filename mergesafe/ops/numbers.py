"""The float32 values that coefficients take before any kernel sees them, without torch.

Kernels compute in float32, so weights, scales and rescale factors are rounded from Python's
float64 here, once and for every backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_uint32
from typing import Final

from mergesafe.native import extension

#: Without election, a sum of weights this close to zero divides by 1 instead.
TINY_DIVISOR: Final = extension.tiny_divisor


def _bits_at_least(value: float) -> int:
    """Bits of the smallest float32 that is not below a positive ``value``."""
    nearest = c_float(value)
    return c_uint32.from_buffer(nearest).value + (nearest.value < value)


#: The same for kernels that compare float32 magnitudes by their bits, which order like the values.
TINY_DIVISOR_BITS: Final = _bits_at_least(TINY_DIVISOR)


def float32(value: float) -> float:
    """``value`` rounded to the nearest float32; beyond its range, infinity."""
    return c_float(value).value


def sums_to_one(weights: Sequence[float], *, float64: bool = False) -> bool:
    """Whether two or more weights add up to 1 but for their rounding.

    A weighted sum then returns values that are equal in all inputs as they are. Each weight and
    each addition may be half a unit in the last place off: the float32 (or float64) sum in order
    is within N units of 1, ``N * 2**-23`` (or ``N * 2**-52``).
    """
    total = weights[0] if float64 else float32(weights[0])
    for weight in weights[1:]:
        total = total + weight if float64 else float32(total + float32(weight))
    unit = 2.0**-52 if float64 else 2.0**-23
    return len(weights) > 1 and abs(total - 1.0) <= len(weights) * unit


def divisor_of(weights: Sequence[float], normalize: bool, *, float64: bool = False) -> float:
    """What the summed task vectors are divided by when no sign is elected.

    The float32 (or float64) sum of the weights in order, or 1 if that is next to nothing or not
    wanted.
    """
    if not normalize:
        return 1.0
    total = 0.0
    for weight in weights:
        # exact in float64, so the one rounding is that of a float32 addition
        total = total + weight if float64 else float32(total + float32(weight))
    return 1.0 if abs(total) < TINY_DIVISOR else total
