"""Scores that functions of a method compute, a piece at a time, for a selection among them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from mergesafe.engine.memory import Section, aligned
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling
from mergesafe.engine.run.kernels import (
    OUTPUT_FLAG,
    Buffer,
    Kernels,
    PassingScores,
    RowNumbers,
    Score,
)
from mergesafe.methods.spec import Combination, TileFunction

#: Computes scores, and answers with flags.
Compute = Callable[[Sequence[Score], RowNumbers | None], int]


class PieceScores:
    """Scores of pieces of a task, in a slice of the arena.

    Scores of a tensor are kept, where there is memory for that, and found once; those of others are
    found again in every pass, from what they have in common in each row where that is kept.
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
        self._columns = task.context.shape[-1] if task.context.shape else 1
        self._rows = memory.take(layout.rows)[0] if layout.rows else 0
        #: Pieces whose rows have been looked at.
        self._seen: set[tuple[int, int]] = set()
        ctypes.memset(address, 0, 2 * size)
        self._zeros = Buffer(address, view, "BF16", "BF16")
        kernels.stage(self._zeros)

    def find(
        self,
        scores: Sequence[Combination],
        begin: int,
        n: int,
        compute: Compute,
        floors: Sequence[float] = (),
    ) -> tuple[int, list[Buffer]]:
        """Flags of the operands where something was computed, and every score of whole rows.

        ``floors``: of each score, a number below which all may come out as any other. What is kept
        is exact.
        """
        wanted, found = [], []
        for number, score in enumerate(scores):
            address, view = self._rooms[number]
            at = 4 * begin if self._stay else 0
            out = Buffer(address + at, view[at : at + 4 * n], "F32", "F32")
            piece = number, begin, n
            if not self._stay or self._known.get(piece) != score:
                floor = floors[number] if floors and not self._stay else 0.0
                wanted.append(Score(score, out, floor))
                self._known[piece] = score
            found.append(out)
        flags = compute(wanted, self.row_numbers(begin, n)) if wanted else 0
        return flags & ~OUTPUT_FLAG, found

    def passing(
        self, scores: Sequence[TileFunction], begin: int, n: int, floors: Sequence[float]
    ) -> PassingScores:
        """Scores of elements [begin, begin + n) that are not kept; see :meth:`find`."""
        given = floors or [0.0] * len(scores)
        return PassingScores(scores, given, self._columns, self.row_numbers(begin, n))

    def row_numbers(self, begin: int, n: int) -> RowNumbers | None:
        """Memory for what the piece's scores have in common, which is taken to be found now."""
        if not self._rows:
            return None
        known = (begin, n) in self._seen
        self._seen.add((begin, n))
        return RowNumbers(self._rows + 4 * (begin // self._columns), known)

    def whole(self, n: int) -> list[Buffer]:
        """Zeros, then the scores of all ``n`` elements, where they are kept."""
        rooms = [Buffer(address, view[: 4 * n], "F32", "F32") for address, view in self._rooms]
        return [self._zeros, *rooms]

    def zeros(self, n: int) -> Buffer:
        """A base for kernels that count differences."""
        return self._zeros.part(0, n, 2)
