"""Numbers in JSON files: what they may be, and what an interval must be."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

#: Far beyond any figure, and small enough that differences and logarithms stay finite.
Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
#: Figures are written with four digits after the point.
ROUNDING: Final = 1e-4


def check_interval(value: float | None, low: float | None, high: float | None) -> None:
    """Refuse half an interval, and one that its value is not in.

    Raises:
        ValueError: says which.
    """
    if low is None and high is None:
        return
    if low is None or high is None:
        raise ValueError("an interval needs both 'low' and 'high'")
    if low > high:
        raise ValueError(f"'low' ({low}) is above 'high' ({high})")
    slack = ROUNDING * max(1.0, abs(low), abs(high))
    if value is not None and not low - slack <= value <= high + slack:
        raise ValueError(f"'value' ({value}) is outside of 'low' ({low}) and 'high' ({high})")
