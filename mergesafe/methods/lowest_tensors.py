"""Which tensors of a model have the lowest numbers; see :class:`LowestTensors`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mergesafe.methods.contract import BrokenContractError, Scope, Used, shown
from mergesafe.methods.operations import Operations
from mergesafe.methods.statistics import Statistic


@dataclass(frozen=True)
class LowestTensors(Statistic):
    """Ask, for each expert, whether this tensor is one of the ``count`` with the lowest numbers.

    ``number(tile, settings)`` returns a number for each input. It is given the whole tensor, as a
    :class:`mergesafe.methods.combinations.Dense` is, which the method must return: the memory that
    this takes is the function's, too. Compared are the tensors of the merge for which the method
    asks, each expert's with each other. All that equal the last of the lowest are among them; a
    tensor whose number is NaN never is. A tensor in memory, which no plan is about, is a model of
    its own.

    The numbers are found before the first tensor is merged, on the CPU. The answer is about a
    tensor and not a threshold, so that rounding in another order cannot part a tensor from the
    number that it was compared by.

    ``operations``: what the function computes, for an estimate of time.
    """

    title: ClassVar[str] = "comparison of matrices"
    about: ClassVar[Literal["tensor", "model"]] = "model"
    count: int
    number: Callable[[Any, Any], Sequence[float]]
    settings: Any = None
    operations: Operations | None = field(default=None, repr=False)

    def check(self, scope: Scope) -> None:
        if not isinstance(self.count, int) or self.count < 1:
            raise BrokenContractError(
                f"merge() asked for LowestTensors with count = {shown(self.count)}", "1 or more"
            )
        if not callable(self.number):
            raise BrokenContractError(
                f"merge() asked for LowestTensors by {shown(self.number)}", "a function"
            )

    def neutral(self, scope: Scope) -> tuple[bool, ...]:
        return (False,) * scope.inputs

    def is_finite(self, answer: object) -> bool:
        return True

    def narrowed(self, used: Used) -> LowestTensors | None:
        raise BrokenContractError(
            "unused() left out inputs of a tensor, and merge() asks about the whole model",
            "no unused inputs, because what is left out elsewhere counts here",
        )

    def widened(self, answer: Any, used: Used) -> Any:
        raise AssertionError("nothing is narrowed")

    def passes(self, *, selects: bool) -> int:
        return 0


def among_lowest(numbers: Iterable[float], count: int) -> list[bool]:
    """Of each number, whether it is one of the ``count`` lowest, or equal to the last of them."""
    known = list(numbers)
    ordered = sorted(number for number in known if not math.isnan(number))
    if not ordered:
        return [False] * len(known)
    highest = ordered[min(count, len(ordered)) - 1]
    return [number <= highest for number in known]
