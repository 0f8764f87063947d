"""Masks of task vectors: which elements survive, by magnitude, at random, or by rank in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mergesafe.methods.contract import BrokenContractError, Scope, shown

#: Bit pattern bounds of |delta| that keep everything (see :class:`Sparsify`).
KEEP_ALL: Final = (0, 0x7FFFFFFF)
#: An empty interval: keeps nothing.
KEEP_NONE: Final = (1, 0)


@dataclass(frozen=True)
class Sparsify:
    """Which elements of one task vector survive, and their factor.

    ``window``: keep where ``lo <= bits(|delta|) <= hi``; magnitudes compare as the bit patterns of
    non-negative float32 values, which order like the values. ``random``: keep where the Philox
    word of (``key``, element index) is below ``threshold`` (a 32-bit integer; probability
    threshold / 2**32). ``rescale`` multiplies the survivors.
    """

    lo: int = KEEP_ALL[0]
    hi: int = KEEP_ALL[1]
    random: bool = False
    key: int = 0
    threshold: int = 0
    rescale: float = 1.0


@dataclass(frozen=True)
class RankMask:
    """Which elements of one task vector survive, by the rank of their magnitude in their row.

    An element of rank r among ``columns`` neighbours (0 is the smallest magnitude; equal ones rank
    by index) is kept where the Philox word of (``key``, element index) is below
    ``low + step * r``, in float64, truncated. A delta of 0 is never kept: it changes nothing.
    ``step`` is not negative.
    """

    low: float
    step: float
    key: int
    columns: int


def check_masks(name: str, masks: Sequence[object], scope: Scope) -> None:
    """Raise where there is not one :class:`Sparsify` for each input."""
    if len(masks) != scope.inputs:
        raise BrokenContractError(
            f"{name} has {len(masks)} masks in 'sparsify'",
            f"{scope.inputs}, one per {scope.noun}",
        )
    for i, mask in enumerate(masks):
        if not isinstance(mask, Sparsify):
            raise BrokenContractError(f"{name} has sparsify[{i}] = {shown(mask)}", "a Sparsify")


def check_ranked(name: str, masks: Sequence[object], scope: Scope) -> None:
    """Raise where there are masks by rank, but not one for each input."""
    if masks and not (len(masks) == scope.inputs and all(isinstance(m, RankMask) for m in masks)):
        raise BrokenContractError(
            f"{name} has ranked = {shown(masks)}", f"none, or {scope.inputs} RankMask"
        )
    if any(mask.step < 0.0 for mask in masks if isinstance(mask, RankMask)):
        raise BrokenContractError(
            f"{name} has masks by rank with a negative step", "steps of 0 or more"
        )
    if any(scope.numel % max(1, mask.columns) for mask in masks if isinstance(mask, RankMask)):
        raise BrokenContractError(
            f"{name} has masks of rows that are no part of {scope.numel} elements",
            "columns = the tensor's last dimension",
        )
