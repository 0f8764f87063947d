"""exp, logarithms and tanh in elementary operations, whose bits are the same on every device.

Those of torch round differently on processors and GPUs. Here every step is one correctly rounded
operation on float64 tensors, in a fixed order; csrc/core/elementary.h has the same steps. Relative
errors are below 1e-12: results are rounded to float32.

Arguments are float64 and are not written to.
"""

from __future__ import annotations

from typing import Any, Final

#: exp of less counts as exp of this, so that no result is subnormal; it is about 1e-304.
LEAST_EXPONENT: Final = -700.0
LOG2_E: Final = 1.4426950408889634
#: ln 2 in two parts, of which the first has so few digits that its products here are exact.
LN2_HIGH: Final = 0.6931471803691238
LN2_LOW: Final = 1.9082149292705877e-10
LN2: Final = 0.6931471805599453
#: Adding and subtracting it rounds to a whole number.
ROUNDER: Final = 6755399441055744.0  # 1.5 * 2^52
#: 1/j! of the series of exp, from the highest power down to r^2; the first term is r itself.
EXP_TERMS: Final = (
    1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
    1.0 / 24.0, 1.0 / 6.0, 0.5,
)  # fmt: skip
#: 2/(2j+1) of the series of log((1 + z)/(1 - z)) in z^2, from the highest power down.
LOG_TERMS: Final = (
    2.0 / 17.0, 2.0 / 15.0, 2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0,
)  # fmt: skip
EXPONENT_BITS: Final = 52
EXPONENT_BIAS: Final = 1023


def exp_minus_one(y: Any) -> tuple[Any, Any]:
    """(a, b) with ``exp(y) = a + b``: b is a power of 2, and 1 for y within ln(2)/2 of 0.

    So ``a + (b - 1)`` is exp(y) - 1 without a loss of digits. For y of at most 700.
    """
    y = y.clamp(min=LEAST_EXPONENT)
    whole = y.mul(LOG2_E).add_(ROUNDER).sub_(ROUNDER)
    r = y.sub_(whole * LN2_HIGH).sub_(whole * LN2_LOW)
    terms = r * EXP_TERMS[0]
    for term in EXP_TERMS[1:]:
        terms.add_(term).mul_(r)
    terms.mul_(r).add_(r)  # r + r^2/2 + ...
    power = whole.long().add_(EXPONENT_BIAS).bitwise_left_shift_(EXPONENT_BITS).view(r.dtype)
    return terms.mul_(power), power


def exp(y: Any) -> Any:
    """e to the power of y, for y of at most 700."""
    a, b = exp_minus_one(y)
    return a.add_(b)


def log_ratio(p: Any, q: Any) -> Any:
    """The natural logarithm of p/q, for normal numbers above 0; exact digits where they are near.

    p is scaled by the power of 2 that brings it next to q, found by their bits, so that
    ``z = (p - q)/(p + q)`` is at most 0.2 and its series short.
    """
    integers = p.new_zeros(0).long().dtype
    bits = p.view(integers)
    whole = (bits - q.view(integers)).add_(1 << (EXPONENT_BITS - 1))
    whole = whole.bitwise_right_shift_(EXPONENT_BITS)
    near = (bits - (whole << EXPONENT_BITS)).view(p.dtype)
    z = (near - q).div_(near + q)
    square = z * z
    terms = square * LOG_TERMS[0]
    for term in LOG_TERMS[1:-1]:
        terms.add_(term).mul_(square)
    terms.add_(LOG_TERMS[-1]).mul_(z)
    return terms.add_(whole.to(p.dtype).mul_(LN2))


def tanh(v: Any) -> Any:
    """The hyperbolic tangent."""
    a, b = exp_minus_one(v.abs() * -2.0)
    below = a + (b - 1.0)  # exp(-2 |v|) - 1
    size = below / (-2.0 - below)
    return size.copysign(v)
