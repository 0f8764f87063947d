"""Experts without what masks by rank drop: masks of a tensor are kept where there is memory."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.engine.memory import Section
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling
from mergesafe.engine.run.kernels import Buffer, Kernels
from mergesafe.methods.spec import RankMask
from mergesafe.native import Array


class RankedExperts:
    """Finds the masks, a piece at a time, in a slice of the arena.

    Those of a tensor of which they do not fit are found again in every pass; others once, because
    ranking costs more than all else.
    """

    def __init__(self, task: TensorTask, layout: Tiling, memory: Section) -> None:
        experts = range(len(task.members) - 1)
        self._stay = layout.tile >= task.numel or layout.masks
        self._keeps = [
            memory.take(task.numel if self._stay else layout.out_tile)[0] for _ in experts
        ]
        self._flags: dict[int, int] = {}

    def find(
        self,
        kernels: Kernels,
        inputs: Sequence[Buffer],
        masks: Sequence[RankMask],
        n: int,
        begin: int,
    ) -> tuple[int, Sequence[Buffer]]:
        """Flags of all inputs, and the base with the experts of elements [begin, begin + n)."""
        at = begin if self._stay else 0
        known = self._stay and begin in self._flags
        keeps = [Array(address + at, n) for address in self._keeps]
        flags, found = kernels.ranked_experts(inputs, masks, n, begin, keeps, known=known)
        self._flags[begin] = self._flags.get(begin, 0) | flags
        return self._flags[begin], found
