"""Scores that functions of a method compute, a piece at a time, for a selection among them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from mergesafe.engine.memory import Slice, aligned
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling, whole_rows
from mergesafe.engine.run.kernels import OUTPUT_FLAG, Buffer, Kernels
from mergesafe.methods.spec import Combination

#: Computes one combination of the elements [begin, begin + n) of a tensor into a buffer: flags.
Compute = Callable[[Combination, Buffer, int, int], int]


class PieceScores:
    """Scores of pieces of a task, in a slice of the arena.

    Scores of a tensor are kept, where there is memory for that, and found once; those of others are
    found again in every pass.
    """

    def __init__(
        self,
        task: TensorTask,
        layout: Tiling,
        memory: Slice,
        kept: tuple[int, memoryview] | None,
        kernels: Kernels,
    ) -> None:
        """``kept``: memory for all scores of the tensor, where there is some."""
        self._task, self._layout, self._stay = task, layout, kept is not None
        made, each = layout.made, aligned(4 * task.numel)
        numbers = range(task.score_count)
        if kept is None:
            self._rooms = [memory.take(4 * made) for _ in numbers]
        else:
            self._rooms = [(kept[0] + i * each, kept[1][i * each :]) for i in numbers]
        self._known: set[tuple[int, int]] = set()
        address, view = memory.take(2 * made)
        ctypes.memset(address, 0, 2 * made)
        #: A base for kernels that count differences.
        self._zeros = Buffer(address, view, "BF16", "BF16")
        kernels.stage(self._zeros)

    def find(
        self, scores: Sequence[Combination], begin: int, n: int, compute: Compute
    ) -> tuple[int, list[Buffer]]:
        """Flags of the operands; zeros, then every score of elements [begin, begin + n)."""
        first, total = whole_rows(self._task, self._layout, begin, n)
        flags = 0
        found = [self._zeros.part(0, n, 2)]
        for number, score in enumerate(scores):
            address, view = self._rooms[number]
            at = 4 * first if self._stay else 0
            out = Buffer(address + at, view[at : at + 4 * total], "F32", "F32")
            if (number, begin) not in self._known:
                flags |= compute(score, out, first, total)
            if self._stay:
                self._known.add((number, begin))
            found.append(out.part(begin - first, n, 4))
        return flags & ~OUTPUT_FLAG, found
