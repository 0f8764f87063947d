"""A tensor that another document of the recipe makes, as an input: computed when it is read.

What the methods of such a document do element by element is done to the elements that are asked
for. What takes numbers about the whole tensor, or whole rows of it, is merged once when the view is
opened, and stays in memory until the tensor that it is an input of is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.view import AsStored, ByteRange, OpenView, Room, View
from mergesafe.engine.memory import ALIGNMENT, aligned
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling, bytes_read, task_layout
from mergesafe.methods.spec import Unit

#: Memory that merging one tensor of an intermediate takes for its tiles, where it can be cut.
BUDGET: Final = 128 << 20
#: More than any machine has: a method that takes whole matrices is given them.
_UNLIMITED: Final = 1 << 60


@dataclass(frozen=True)
class Merged(AsStored):
    """The tensor ``info`` that ``tasks`` make, one for each of its parts. Its elements have the
    document's output type, and are to the bit what would be written.

    ``on_nonfinite``: error, warn or zero, of the tasks' inputs. ``whole``: the view that this one
    is a window of, from element ``first`` on, with the tasks that make some of it.
    """

    tensor: TensorInfo
    tasks: tuple[TensorTask, ...]
    on_nonfinite: str = "error"
    whole: Merged | None = None
    first: int = 0

    def window(self, begin: int, n: int) -> Merged:
        if len(self.tasks) == 1:
            return self
        made = [t for t in self.tasks if t.begin < begin + n and begin < t.begin + t.numel]
        return replace(
            self, tasks=tuple(made), whole=self.unwindowed, first=min(t.begin for t in made)
        )

    @property
    def unwindowed(self) -> Merged:
        return self.whole or self

    @property
    def info(self) -> TensorInfo:
        return self.tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def held(self) -> bool:
        """Whether the whole tensor, or what is read of it, is made at once and stays in memory."""
        return is_held(self.unwindowed.tasks)

    @property
    def made_numel(self) -> int:
        """Elements that the tasks make."""
        return sum(task.numel for task in self.tasks)

    @cached_property
    def layouts(self) -> tuple[Tiling, ...]:
        """How each task is cut."""
        return tuple(
            task_layout(
                task, _UNLIMITED if task.unit.is_whole else BUDGET + 4 * task.fixed_bytes, 1
            )
            for task in self.tasks
        )

    @property
    def fixed_bytes(self) -> int:
        own = ALIGNMENT + max(layout.nbytes for layout in self.layouts)
        return own + (aligned(self.made_numel * self.stored_size) if self.held else 0)

    @property
    def areas(self) -> int:
        return 3

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        sources = (source for task in self.tasks for source in task.sources)
        return tuple(info for source in sources for info in source.view.infos)

    @property
    def stored_bytes(self) -> int:
        return sum(map(bytes_read, self.tasks, self.layouts))

    @property
    def tells(self) -> bool:
        return True

    def ranges(self, begin: int, n: int) -> Iterator[ByteRange]:
        for task in self.tasks:
            first, end = max(begin, task.begin), min(begin + n, task.begin + task.numel)
            if first < end:
                for source in task.sources:
                    reach = task.reach(source, first - task.begin, end - first)
                    yield from source.view.ranges(*reach)

    def identity(self) -> list[object]:
        found: list[object] = ["document", str(self.tensor.path), self.tensor.name]
        for task in self.tasks:
            found += [task.name, task.copied, task.cast, task.out_dtype, task.used]
            found += [part for source in task.sources for part in source.view.identity()]
        return found

    def moved(self, move: Callable[[TensorInfo], TensorInfo]) -> Merged:
        def each(task: TensorTask) -> TensorTask:
            sources = tuple(replace(s, view=s.view.moved(move)) for s in task.sources)
            return replace(task, sources=sources)

        return replace(self, tasks=tuple(map(each, self.tasks)))

    def described(self) -> dict[str, object]:
        return {
            "made_of": [
                {
                    "model": source.model,
                    "file": source.view.info.path.name,
                    "tensor": source.view.info.name,
                    **source.view.described(),
                }
                for source in self.tasks[0].sources
            ]
        }

    def open(self, room: Room) -> OpenView:
        # What runs a plan stands above what makes one.
        from mergesafe.engine.run.merged import OpenMerged

        return OpenMerged(self, room)


def is_held(tasks: Sequence[TensorTask]) -> bool:
    """Whether the whole tensor that ``tasks`` make is made at once and stays in memory."""
    if len(tasks) > 1:
        return True
    [task] = tasks
    return not task.copied and (bool(task.statistics) or task.unit is not Unit.ELEMENT)


def merged_views(view: View) -> Iterator[Merged]:
    """The tensors of intermediates that a view reads, through adapters, parts and rows."""
    if isinstance(view, Merged):
        yield view
    for each in view.below:
        yield from merged_views(each)


def stored_infos(view: View) -> Iterator[TensorInfo]:
    """The stored tensors that a view reads without those that intermediates are made of."""
    if isinstance(view, Merged):
        return
    for each in view.below:
        yield from stored_infos(each)
    yield from view.companions.values() if view.below else view.infos


def inner_tasks(tasks: Iterable[TensorTask]) -> Iterator[TensorTask]:
    """The tasks, and those of the intermediates that they read, which may read others."""
    for task in tasks:
        yield task
        for source in task.sources:
            for merged in merged_views(source.view):
                yield from inner_tasks(merged.tasks)
