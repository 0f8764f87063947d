"""One output tensor: read its inputs, answer the method's statistics, combine, write.

A tensor that is kept in the slice of memory it was given is read once and stays there. Another one
is read in tiles, once per pass. Both give the same bytes: selection is exact, reductions run over
fixed blocks in order, and the combination is element-wise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeGuard

from mergesafe.checkpoint.format.digest import BLOCK, add, digest_at
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import Room, View
from mergesafe.dtypes import SIZES
from mergesafe.engine.digests import OUTPUT, SCALES
from mergesafe.engine.memory import Section
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling, rank_count, whole_rows
from mergesafe.engine.resume.entries import Statistics, Tile
from mergesafe.engine.run.answers import answer
from mergesafe.engine.run.encoded import EncodedRows
from mergesafe.engine.run.kernels import (
    OUTPUT_FLAG,
    Buffer,
    Kernels,
    RowNumbers,
    Score,
    Selection,
    TileError,
    flagged,
)
from mergesafe.engine.run.numerical_rank import few_directions
from mergesafe.engine.run.ranks import RankedExperts
from mergesafe.engine.run.results import Results
from mergesafe.engine.run.scores import PieceScores
from mergesafe.engine.run.trace import Lap, no_lap
from mergesafe.methods.contract import OperandSet
from mergesafe.methods.driver import broken, drive, steps
from mergesafe.methods.spec import (
    Combination,
    Fused,
    MergeTaskVectors,
    RankMask,
    Statistic,
    TileFunction,
)
from mergesafe.native import Array


class TensorMerge:
    """Executes one task inside a slice of the arena."""

    def __init__(
        self,
        task: TensorTask,
        number: int,
        kernels: Kernels,
        reader: Reader,
        layout: Tiling,
        memory: Section,
        results: Results,
        lap: Lap = no_lap,
    ) -> None:
        self.task, self.kernels, self.reader = task, kernels, reader
        self.layout, self.memory = layout, memory
        self.number, self.results, self.lap = number, results, lap
        self._digests: dict[str, int] = {}
        self._nonfinite: set[int] = set()
        self._overflow = False
        self._out = memory.take(layout.made * SIZES[task.made_dtype])
        self._encoded = EncodedRows(task, layout, memory) if task.encoding is not None else None
        room = Room(
            reader, layout.tile, memory.take, layout.threads,
            read=lambda nbytes: lap("read", 0, nbytes),
            made=lambda nbytes: lap("adapter", 0, nbytes),
            moved=results.advance,
        )  # fmt: skip
        most = min(layout.read, max(layout.tile, task.numel))
        self._views = [
            source.view.open(replace(room, tile=task.reach(source, 0, most)[1]))
            for source in task.sources
        ]
        self._fetched = [0] * len(self._views)
        self.storage = memory.take(layout.select * rank_count(task))[0] if layout.select else 0
        self._scores = memory.take(layout.scores) if layout.scores else None
        self._ranks: RankedExperts | None = None
        self._resident: list[Buffer] | None = None
        #: What was read last, and its first element.
        self._read_last: tuple[int, list[Buffer]] = 0, []
        self._planned = True  # whether reading counts as progress
        self._span = 0, task.numel

    def run(self, begin: int, count: int, combine: Combination | None) -> None:
        """Elements [begin, begin + count); the whole tensor where ``combine`` is to be found."""
        self._span = begin, begin + count
        if count < self.task.numel:
            self._resident = None  # of an earlier run of the whole tensor
        if combine is None:
            combine = self._statistics()
        size, made = SIZES[self.task.out_dtype], self.task.made_dtype
        address, view = self._out
        chosen = list(self.operands(combine.of))
        more = range(len(self.task.members), len(self.task.sources))
        if isinstance(combine, Fused):
            chosen = combine.operands(chosen, more)
        elif combine.takes_more:
            chosen += more
        for begin, count, inputs in self.tiles(beside=combine.takes_more):
            self._begin_tile(begin)
            for at, n, pieces in self.pieces(inputs, count):
                first, total, rows = self._whole_rows(begin + at, n, pieces)
                out = Buffer(address, view[: total * SIZES[made]], made, made)
                parts = [rows[i] for i in chosen]
                flags = self._combine(parts, combine, out, total, first, chosen)
                written = out.address, out.view
                if self._encoded is not None:
                    written = self._encoded.encode(out.view, first, begin)
                skip = (begin + at - first) * size
                place, data = written[0] + skip, written[1][skip : skip + n * size]
                self.lap("combine", begin + at, n * size)
                self.check(flags, chosen)
                self._digest(begin, at, n, place)
                self.lap("digest", begin + at, n * size)
                self.results.write(self.task, (begin + at) * size, data)
                self.lap("write", begin + at, n * size)
                self.results.advance(self.task.written_bytes(n))
            if self._encoded is not None:
                self._digests[SCALES] = self._encoded.write(self.results, begin, count)
            self.results.finished(
                Tile(
                    self.number, begin, count, self._digests, tuple(sorted(self._nonfinite)),
                    self._overflow,
                    few_directions(self.task, inputs) if count == self.task.numel else 0,
                )
            )  # fmt: skip
            self.lap("journal", begin, 0)

    def _combine(
        self,
        inputs: list[Buffer],
        how: Combination,
        out: Buffer,
        n: int,
        begin: int,
        chosen: Sequence[int],
    ) -> int:
        if isinstance(how, MergeTaskVectors) and how.ranked:
            left = self.ranked(inputs, how.ranked, n, begin)
            return self.kernels.combine(left, how, out, n, begin)
        if not isinstance(how, TileFunction):
            return self.kernels.combine(inputs, how, out, n, begin, self.scores(begin, n))
        if how.scores and self._scores_pass(how.scores, how):
            found = self._pieces_of_scores.passing(how.scores, begin, n, how.floors)
            return self.kernels.scored_tile(inputs, how, found, out, n)
        scores: Sequence[Buffer] = ()
        if how.scores:
            scores = self._scores_of(how.scores, inputs, n, begin, chosen, how.floors)
        with self._blamed(chosen):
            return self.kernels.tile(inputs, how, out, self.task.context, begin, scores)

    @contextmanager
    def _blamed(self, chosen: Sequence[int]) -> Iterator[None]:
        """A function that does not keep to its contract is the method's fault, unless an operand
        holds NaN, which is what the user can mend.
        """
        try:
            yield
        except TileError as caught:
            self.check(caught.flags, chosen)
            error = caught.error
            raise broken(self.task.method, self.task.context, error) from error.__cause__

    def ranked(
        self, inputs: Sequence[Buffer], masks: Sequence[RankMask], n: int, begin: int
    ) -> Sequence[Buffer]:
        """The base, then the experts without what masks by rank drop; flags are reported."""
        if self._ranks is None:
            self._ranks = RankedExperts(self.task, self.layout, self.memory)
        flags, left = self._ranks.find(self.kernels, inputs, masks, n, begin)
        self.check(flags)
        return left

    def scored(
        self,
        inputs: Sequence[Buffer],
        scores: Sequence[Combination],
        n: int,
        begin: int,
        floors: Sequence[float] = (),
    ) -> Sequence[Buffer]:
        """Zeros, then the scores of elements [begin, begin + n); flags are reported."""
        first, total, rows = self._whole_rows(begin, n, inputs)
        chosen = range(len(inputs))
        found = self._scores_of(scores, list(rows), total, first, chosen, floors)
        skip = begin - first
        return [self._pieces_of_scores.zeros(n), *(x.part(skip, n, 4) for x in found)]

    def add_scored(
        self,
        selection: Selection,
        inputs: Sequence[Buffer],
        scores: Sequence[Combination],
        n: int,
        begin: int,
        floors: Sequence[float],
    ) -> None:
        """Give a selection the scores of elements [begin, begin + n); flags are reported."""
        if not self._scores_pass(scores):
            selection.add_scores(self.scored(inputs, scores, n, begin, floors)[1:], n)
            return
        found = self._pieces_of_scores.passing(scores, begin, n, floors)
        flags = self.kernels.add_scored(selection, inputs, found, n)
        self.check(flags, range(len(self.task.members)))

    def _scores_pass(
        self, scores: Sequence[Combination], function: TileFunction | None = None
    ) -> TypeGuard[Sequence[TileFunction]]:
        """Whether kernels take such scores as they find them: of whole rows, and not kept."""
        kept = self.keeps_scores or self.layout.row
        return not kept and self.kernels.scores_pass(scores, function)

    @property
    def keeps_scores(self) -> bool:
        """Whether scores of the whole tensor stay in memory."""
        return self._scores is not None

    def all_scores(self) -> Sequence[Buffer]:
        """Zeros, then all of them, once :meth:`scored` has found those of all pieces."""
        return self._pieces_of_scores.whole(self.task.numel)

    def _scores_of(
        self,
        scores: Sequence[Combination],
        inputs: list[Buffer],
        n: int,
        begin: int,
        chosen: Sequence[int],
        floors: Sequence[float],
    ) -> Sequence[Buffer]:
        """The scores of whole rows; flags are reported."""

        def compute(wanted: Sequence[Score], rows: RowNumbers | None) -> int:
            with self._blamed(chosen):
                return self.kernels.scores(inputs, wanted, n, self.task.context, begin, rows)

        flags, found = self._pieces_of_scores.find(scores, begin, n, compute, floors)
        self.check(flags, chosen)
        return found

    @cached_property
    def _pieces_of_scores(self) -> PieceScores:
        return PieceScores(self.task, self.layout, self.memory, self._scores, self.kernels)

    def scores(self, begin: int, count: int) -> Array | None:
        """Memory for the scores of these elements, where they are kept."""
        return None if self._scores is None else Array(self._scores[0] + 4 * begin, count)

    def _begin_tile(self, begin: int) -> None:
        # What is read as a whole, as factors of adapters, is counted with the first tile.
        self._digests = {} if begin else {
            f"{index}.{part}": digest
            for index, view in enumerate(self._views)
            for part, digest in view.digests.items()
        }  # fmt: skip
        self._nonfinite, self._overflow = set(), False

    def _statistics(self) -> Combination:
        """The method's combination, from statistics of the whole tensor."""
        answers: list[Any] = []

        def found(request: Statistic) -> Any:
            told = answer(request, self)
            if request.about == "tensor":
                answers.append(told)
            return told

        merge = steps(
            self.task.method, self.task.context, self.task.settings,
            used=self.task.used, planned=self.task.planned,
        )  # fmt: skip
        combine = drive(merge, found)
        if answers and self.layout.tile < self.task.numel:  # else it is done again as one tile
            odd = tuple(sorted(self._nonfinite))
            self.results.finished(Statistics(self.number, tuple(answers), odd))
        return combine

    def _digest(self, tile: int, at: int, n: int, out: int) -> None:
        """Add elements [tile + at, tile + at + n), which are in the cache just now."""
        for index, source in enumerate(self.task.sources):
            size = source.view.stored_size
            first, count = self.task.reach(source, tile + at, n)
            stored = self._fetched[index] + max(0, first - self._read_last[0]) * size
            block = (self.task.begin + first) * size // BLOCK
            self._add(str(index), digest_at(stored, count * size, block))
        size = SIZES[self.task.out_dtype]
        block = (self.task.begin + tile + at) * size // BLOCK
        self._add(OUTPUT, digest_at(out, n * size, block))

    def _add(self, part: str, digest: int) -> None:
        self._digests[part] = add(self._digests.get(part, 0), digest)

    def check(self, flags: int, inputs: Sequence[int] | None = None) -> None:
        """Report a kernel's flags; ``inputs`` says which of the task's inputs it was given."""
        if flags:
            given = range(len(self.task.sources)) if inputs is None else inputs
            found = flagged(flags, given)
            self._nonfinite |= found
            self._overflow |= bool(flags & OUTPUT_FLAG)
            self.results.check(self.task, found, bool(flags & OUTPUT_FLAG))

    # --- reading -------------------------------------------------------------------------------

    def operands(self, of: OperandSet) -> range:
        """Which of the sources belong to a set; a separate base comes first."""
        first = 1 if self.task.context.base and of != "all" else 0
        return range(first, len(self.task.members))

    def tiles(
        self, *, planned: bool = True, beside: bool = False
    ) -> Iterator[tuple[int, int, list[Buffer]]]:
        """(first element, count, inputs) of every tile, read unless resident already.

        ``planned``: whether reading counts as progress. ``beside``: with references and
        calibration, which come after the inputs.
        """
        self._planned = planned
        wanted = len(self.task.sources if beside else self.task.members)
        if self._resident is not None:
            left = range(len(self._resident), wanted)
            self._resident += self._read_all(left, 0, self.task.numel)
            self._read_last = 0, self._resident
            yield 0, self.task.numel, self._resident[:wanted]
            return
        for begin in range(*self._span, self.layout.tile):
            count = min(self.layout.tile, self._span[1] - begin)
            first, total = whole_rows(self.task, self.layout, begin, count)
            inputs = self._read_all(range(wanted), first, total)
            self._read_last = first, inputs
            if count == self.task.numel:
                self._resident = inputs
            yield begin, count, self._cut(inputs, begin - first, count)

    def pieces(
        self, inputs: Sequence[Buffer], count: int
    ) -> Iterator[tuple[int, int, list[Buffer]]]:
        """(first element in the tile, count, inputs) of what is written at once."""
        for at in range(0, count, self.layout.out_tile):
            n = min(self.layout.out_tile, count - at)
            yield at, n, self._cut(inputs, at, n)

    def _cut(self, inputs: Sequence[Buffer], at: int, n: int) -> list[Buffer]:
        return [
            x.part(at, n, SIZES[x.dtype]) if self._is_cut(i) else x for i, x in enumerate(inputs)
        ]

    def _whole_rows(
        self, begin: int, n: int, inputs: Sequence[Buffer]
    ) -> tuple[int, int, Sequence[Buffer]]:
        """Elements [begin, begin + n) with the rest of their rows, of what was read last."""
        first, total = whole_rows(self.task, self.layout, begin, n)
        if (first, total) == (begin, n):
            return begin, n, inputs
        origin, read = self._read_last
        return first, total, self._cut(read, first - origin, total)

    def _is_cut(self, index: int) -> bool:
        """Whether a source is read in tiles; calibration of another shape is read as a whole."""
        return self.task.sources[index].view.numel == self.task.numel

    def inputs(self, begin: int, count: int, *, beside: bool = False) -> list[Buffer]:
        wanted = len(self.task.sources if beside else self.task.members)
        return self._read_all(range(wanted), begin, count)

    def _read_all(self, which: range, begin: int, count: int) -> list[Buffer]:
        sources = self.task.sources
        return [
            self._read(i, sources[i].view, *self.task.reach(sources[i], begin, count))
            for i in which
        ]

    def _read(self, index: int, view: View, begin: int, count: int) -> Buffer:
        opened, nbytes = self._views[index], count * view.stored_size
        self._fetched[index], _ = opened.fetch(begin, count)
        self.lap("read", begin, nbytes)
        self.results.advance(nbytes if self._planned and not view.tells else 0)
        address, elements = opened.make(begin, count)
        if view.made_size:
            self.lap("adapter", begin, nbytes)
        cast = self.task.cast_of(index) or view.dtype
        buffer = Buffer(address, elements, view.dtype, cast)
        self.kernels.stage(buffer)
        return buffer
