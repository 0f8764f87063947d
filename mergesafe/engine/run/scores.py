"""Scores that functions of a method compute, a piece at a time, for a selection among them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from mergesafe.engine.memory import Section, aligned
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling
from mergesafe.engine.run.kernels import OUTPUT_FLAG, Buffer, Kernels
from mergesafe.methods.spec import Combination

#: Computes a combination into a buffer, and answers with flags.
Compute = Callable[[Combination, Buffer], int]


class PieceScores:
    """Scores of pieces of a task, in a slice of the arena.

    Scores of a tensor are kept, where there is memory for that, and found once; those of others are
    found again in every pass.
    """

    def __init__(
        self,
        task: TensorTask,
        layout: Tiling,
        memory: Section,
        kept: tuple[int, memoryview] | None,
        kernels: Kernels,
    ) -> None:
        """``kept``: memory for all scores of the tensor, where there is some."""
        self._stay = kept is not None
        made, each = layout.made, aligned(4 * task.numel)
        numbers = range(task.score_count)
        if kept is None:
            self._rooms = [memory.take(4 * made) for _ in numbers]
            (address, view), size = memory.take(2 * made), made
        else:
            self._rooms = [(kept[0] + i * each, kept[1][i * each :]) for i in numbers]
            at, size = len(self._rooms) * each, task.numel
            address, view = kept[0] + at, kept[1][at : at + 2 * size]
        #: By number and piece: of which combination the room holds the values.
        self._known: dict[tuple[int, int, int], Combination] = {}
        ctypes.memset(address, 0, 2 * size)
        self._zeros = Buffer(address, view, "BF16", "BF16")
        kernels.stage(self._zeros)

    def find(
        self, scores: Sequence[Combination], begin: int, n: int, compute: Compute
    ) -> tuple[int, list[Buffer]]:
        """Flags of the operands where something was computed, and every score of whole rows."""
        flags, found = 0, []
        for number, score in enumerate(scores):
            address, view = self._rooms[number]
            at = 4 * begin if self._stay else 0
            out = Buffer(address + at, view[at : at + 4 * n], "F32", "F32")
            piece = number, begin, n
            if not self._stay or self._known.get(piece) != score:
                flags |= compute(score, out)
                self._known[piece] = score
            found.append(out)
        return flags & ~OUTPUT_FLAG, found

    def whole(self, n: int) -> list[Buffer]:
        """Zeros, then the scores of all ``n`` elements, where they are kept."""
        rooms = [Buffer(address, view[: 4 * n], "F32", "F32") for address, view in self._rooms]
        return [self._zeros, *rooms]

    def zeros(self, n: int) -> Buffer:
        """A base for kernels that count differences."""
        return self._zeros.part(0, n, 2)
