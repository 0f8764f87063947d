"""Makes the elements of a tensor of an intermediate, which
:class:`mergesafe.engine.plan.merged_view.Merged` is a view of.

Computed by the kernels of this machine's CPU, whatever merges the output: both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mergesafe.checkpoint.views.adapted import convert
from mergesafe.checkpoint.views.view import Memory, OpenView, Room
from mergesafe.dtypes import SIZES
from mergesafe.engine.memory import Section
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling
from mergesafe.engine.resume.entries import Statistics, Tile
from mergesafe.engine.run.copied import check_equal
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.tensor import TensorMerge
from mergesafe.engine.run.trace import Lap, no_lap
from mergesafe.methods.driver import drive, steps
from mergesafe.methods.spec import Merge

if TYPE_CHECKING:
    from mergesafe.engine.plan.merged_view import Merged


class OpenMerged(OpenView):
    """The view with memory for a tile, or with the whole tensor in memory where it is held."""

    def __init__(self, view: Merged, room: Room) -> None:
        self._room, self._size, self._held = room, view.stored_size, view.held
        zero = view.on_nonfinite == "zero"
        self._kernels = choose("auto", "cpu", None, zero_nonfinite=zero).kernels(room.threads)
        self._first = view.first
        self._memory = room.take((view.made_numel if view.held else room.tile) * self._size)
        self._scratch = room.take(max(layout.nbytes for layout in view.layouts))
        self._into = _Into(self._memory, NonFinite(view.on_nonfinite, room.reader), room)
        self._fetched = self._memory
        if view.held:
            for task, layout in zip(view.tasks, view.layouts, strict=True):
                self._into.begin = (view.first - task.begin) * self._size
                if task.numel:
                    self._made(task, layout, whole=True)(0, task.numel)
        else:
            [task], [layout] = view.tasks, view.layouts
            self._make = self._made(task, layout, whole=False)

    def fetch(self, begin: int, n: int) -> Memory:
        address, memory = self._memory
        if self._held:
            first = (begin - self._first) * self._size
            end = first + n * self._size
            self._fetched = address + first, memory[first:end]
        else:
            self._into.begin = begin * self._size
            self._make(begin, n)
            self._fetched = address, memory[: n * self._size]
        return self._fetched

    def make(self, begin: int, n: int) -> Memory:
        return self._fetched

    def _made(self, task: TensorTask, layout: Tiling, *, whole: bool) -> Callable[[int, int], None]:
        """What makes elements, by first and number, of a task that is not empty."""
        memory = Section(*self._scratch)
        if task.copied:
            return _Copy(task, layout, replace(self._room, take=memory.take), self._into).run
        merge = TensorMerge(task, 0, self._kernels, self._room.reader, layout, memory, self._into)
        combine = None if whole else drive(_steps(task), _no_statistics)
        return partial(merge.run, combine=combine)


def _steps(task: TensorTask) -> Merge:
    return steps(task.method, task.context, task.settings, used=task.used, planned=task.planned)


def _no_statistics(request: object) -> None:
    raise AssertionError(f"{request}: a tensor that is not held needs no statistics")


class _Into:
    """Takes what the merge of an intermediate's tensor makes; see
    :class:`mergesafe.engine.run.results.Results`.

    ``begin``: the byte of the tensor that the memory begins with.
    """

    def __init__(self, memory: Memory, nonfinite: NonFinite, room: Room) -> None:
        self.begin = 0
        self._memory, self._nonfinite, self._room = memory[1], nonfinite, room

    def write(self, task: TensorTask, begin: int, data: memoryview, part: int = 0) -> None:
        at = begin - self.begin
        self._memory[at : at + data.nbytes] = data

    def finished(self, entry: Tile | Statistics) -> None:
        """Nothing: it is not written."""

    def check(self, task: TensorTask, inputs: Iterable[int], overflow: bool) -> None:
        self._nonfinite.check(task, inputs, overflow)

    def advance(self, nbytes: int) -> None:
        self._room.moved(nbytes)

    def laps(self, tensor: str) -> Lap:
        return no_lap


class _Copy:
    """Copies what one input owns, or integers, which all inputs must agree on."""

    def __init__(self, task: TensorTask, layout: Tiling, room: Room, into: _Into) -> None:
        self._task, self._tile, self._into = task, layout.tile, into
        own = replace(room, tile=layout.tile)
        self._views = [source.view.open(own) for source in task.sources]
        self._rounded = room.take(layout.tile * SIZES[task.out_dtype])

    def run(self, begin: int, count: int) -> None:
        task, size = self._task, SIZES[self._task.out_dtype]
        first = task.sources[0].view
        for at in range(begin, begin + count, self._tile):
            n = min(self._tile, begin + count - at)
            (_, piece), *others = [view.fetch(at, n) for view in self._views]
            check_equal(task, piece, [found for _, found in others])
            self._into.advance(piece.nbytes * len(self._views))
            if first.made_size:
                address, rounded = self._rounded
                made, _ = self._views[0].make(at, n)
                convert(made, first.dtype, address, task.out_dtype, n)
                piece = rounded[: n * size]
            self._into.write(task, at * size, piece)
