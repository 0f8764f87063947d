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


#: Takes a :class:`mergesafe.ops.factors.FactorGroup` and returns U [m, p] with orthonormal columns,
#: V [q, n] with orthonormal rows, both float64, and a matrix M_t [p, q] in float32 for each input.
GroupBody: TypeAlias = Callable[[Any], tuple[Any, Any, Any]]


@dataclass(frozen=True)
class LowRank(TileFunction):
    """``out = base + U M V``, or an adapter of it, where ``inner`` makes M of the M_t.

    ``U, V, (M_1, ..., M_N) = function(group)`` of the factors of all inputs of one tensor.
    ``inner``: a method of task vectors, which is given the M_t and a base of zeros at ``settings``.
    ``rank``: min(p, q), which must follow from the context alone. ``holds``: float32 values that
    the function, and what makes factors of its result, hold at most for each element of all
    factors.
    """

    function: GroupBody  # type: ignore[assignment]
    unit: Unit = Unit.GROUP
    holds: float = 16.0
    rank: int = field(kw_only=True)
    inner: Any = field(kw_only=True)

    def check(self, scope: Scope, *, finite: bool) -> None:
        super().check(scope, finite=finite)
        if self.unit is not Unit.GROUP:
            raise BrokenContractError(f"LowRank has unit = {self.unit}", "Unit.GROUP")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise BrokenContractError(f"LowRank has rank = {shown(self.rank)}", "a whole number")
