"""The value of one parameter as a recipe writes it: scalar, gradient over layers, filters.

With ``t`` in [0, 1] the position in the stack of layers, a list ``v`` of n numbers is interpolated
linearly: ``s = t (n - 1)``, ``i = trunc(s)``, ``(1 - (s - i)) v[i] + (s - i) v[i + 1]``. A list of
booleans or words picks ``v[trunc(s)]``. Among ``{filter, value}`` entries the first whose filter is
a substring of the tensor's name wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from mergesafe.methods.spec import Scalar

#: What a setting looks like in a recipe's data: plain scalars, lists and mappings.
Plain: TypeAlias = Scalar | list[Scalar] | list[dict[str, Scalar | list[Scalar]]]


@dataclass(frozen=True, slots=True)
class Branch:
    """One ``{filter, value}`` entry; a bare value is a branch without a filter.

    Numbers are stored as float, so the type of the first value tells numbers from choices.
    """

    values: tuple[Scalar, ...]
    gradient: bool = False
    filter: str | None = None

    def at(self, t: float) -> Scalar:
        """The value at position ``t`` in the stack of layers."""
        if not self.gradient:
            return self.values[0]
        last = len(self.values) - 1
        position = t * last
        index = int(position)
        low = self.values[index]
        if not isinstance(low, float):
            return low
        share = position - index
        return (1.0 - share) * low + share * float(self.values[min(last, index + 1)])

    @property
    def value(self) -> Scalar | list[Scalar]:
        """The value as a recipe writes it."""
        return list(self.values) if self.gradient else self.values[0]


@dataclass(frozen=True, slots=True)
class Setting:
    """An immutable parameter value; ``line`` is where the recipe sets it."""

    branches: tuple[Branch, ...]
    line: int | None = field(default=None, compare=False)

    def at(self, tensor_name: str, t: float) -> Scalar | None:
        """The value for one tensor, or None when no filter matches its name."""
        for branch in self.branches:
            if branch.filter is None or branch.filter in tensor_name:
                return branch.at(t)
        return None

    @property
    def filters(self) -> tuple[str, ...]:
        """The filters in order, without the entry that takes the rest."""
        return tuple(b.filter for b in self.branches if b.filter is not None)

    @property
    def varies_with_layer(self) -> bool:
        """True when the value depends on ``t``."""
        return any(branch.gradient for branch in self.branches)

    @property
    def plain(self) -> Plain:
        """The setting as plain data, as a recipe writes it."""
        if len(self.branches) == 1 and self.branches[0].filter is None:
            return self.branches[0].value
        return [
            {"value": b.value} if b.filter is None else {"filter": b.filter, "value": b.value}
            for b in self.branches
        ]
