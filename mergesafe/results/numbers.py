"""Numbers in results: what they may be, and what an interval must be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

#: Far beyond any figure, and small enough that differences and logarithms stay finite.
LARGEST: Final = 1e30
Number = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
#: The level of confidence intervals; at 1 they hold everything.
Confidence = Annotated[float, msgspec.Meta(ge=0.5, lt=1)]
#: Figures are written with four digits after the point.
ROUNDING: Final = 1e-4


def slack(*values: float) -> float:
    """What rounding may have moved a figure of this size by."""
    return ROUNDING * max(1.0, *map(abs, values))


def check_interval(value: float, low: float, high: float) -> None:
    """Refuse an interval whose ends are the wrong way round or that its value is not in.

    Raises:
        ValueError: says which.
    """
    if low > high:
        raise ValueError(f"'low' ({low}) is above 'high' ({high})")
    reach = slack(low, high)
    if not low - reach <= value <= high + reach:
        raise ValueError(f"'value' ({value}) is outside of 'low' ({low}) and 'high' ({high})")


def check_distinct(what: str, names: Iterable[str]) -> None:
    """Refuse two of one name.

    Raises:
        ValueError: says which.
    """
    listed = list(names)
    if len(set(listed)) < len(listed):
        twice = next(name for name in listed if listed.count(name) > 1)
        raise ValueError(f"two of the {what} are called {twice[:60]!r}")


class Rate(msgspec.Struct, frozen=True):
    """A share of ``n`` cases, with its interval."""

    value: Share
    low: Share
    high: Share
    n: Count

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)
