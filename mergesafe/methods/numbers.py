"""Functions of numbers that a method's declaration uses, on plain numbers and on torch scalars.

While tuning finds a gradient, the coefficients among a method's settings are scalar tensors that
require grad. Python's operators work on both; these functions do, too, and import no torch.
"""

from __future__ import annotations

import math
import struct
from typing import Any


def is_traced(value: object) -> bool:
    """Whether ``value`` is a tensor, so that a gradient may be asked for."""
    return hasattr(value, "detach")


def plain(value: Any) -> Any:
    """The number in a scalar tensor; anything else as it is."""
    return value.detach().item() if is_traced(value) else value


def sin(value: Any) -> Any:
    return value.sin() if is_traced(value) else math.sin(value)


def float32_of(bits: int) -> float:
    """The float32 that has these bits, as magnitudes and scores are told."""
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return number


def to_float32(number: float) -> float:
    """Rounded to float32; what is too large becomes infinity."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)
    return rounded
