"""Merges of LoRA adapters by their factors: what a method is told, and what it returns.

The factors of an adapter are a group of tensors: neither means anything without the other, so a
group is read, merged and written as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mergesafe.methods.combinations import TileFunction, Unit
from mergesafe.methods.contract import BrokenContractError, Scope, shown


@dataclass(frozen=True, slots=True)
class LowRankDelta:
    """What is known of ``scale * B A`` before it is read: A is [rank, n], B is [m, rank].

    ``transposed``: the factors are stored for the transposed weight: A as [rank, m], which is Bᵀ
    here, and B as [n, rank].
    """

    rank: int
    scale: float
    transposed: bool = False


#: Takes a :class:`mergesafe.ops.factors.FactorGroup` and the combination's ``settings``, and
#: returns B [m, rank] and A [rank, n], float32.
GroupBody: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class LowRank(TileFunction):
    """``out = base + B A`` with ``B, A = function(group, settings)``, or B and A themselves.

    The group has the factors of all inputs of one tensor. ``rank``: columns of the B that the
    function returns, which must follow from the settings and the context alone. ``holds``: float32
    values that the function holds at most for each element of all factors.
    """

    function: GroupBody
    unit: Unit = Unit.GROUP
    holds: float = 16.0
    rank: int = field(default=0, kw_only=True)

    def check(self, scope: Scope, *, finite: bool) -> None:
        super().check(scope, finite=finite)
        if self.unit is not Unit.GROUP:
            raise BrokenContractError(f"LowRank has unit = {self.unit}", "Unit.GROUP")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise BrokenContractError(f"LowRank has rank = {shown(self.rank)}", "a whole number")
