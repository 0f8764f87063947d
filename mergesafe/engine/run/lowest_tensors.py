"""Which tensors of a merge have the lowest numbers, found before the first is merged.

Each tensor that a method asks about is read as a whole, one after the other, and the method's
function finds a number of every expert; see :class:`mergesafe.methods.spec.LowestTensors`. It takes
no more memory than the merge of the tensor, whose function is given the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import OpenView, Room
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.run.kernels import Buffer, TileError, flagged
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.methods.driver import broken
from mergesafe.methods.lowest_tensors import among_lowest
from mergesafe.methods.spec import LowestTensors


def compared_bytes(tasks: Iterable[TensorTask]) -> int:
    """Bytes that are read to compare tensors."""
    return sum(task.stored_bytes for task in tasks if task.compared is not None)


def with_lowest(
    plan: MergePlan,
    reader: Reader,
    nonfinite: NonFinite,
    *,
    threads: int,
    advance: Callable[[int], None] | None = None,
) -> MergePlan:
    """The plan, whose tasks know whether they are among the lowest; computed on the CPU.

    ``advance``: told of bytes that were read.

    Raises:
        CheckpointError: an input cannot be read.
        MethodError: the method's function breaks its contract.
        NonFiniteError: the rule is ``error`` and an input holds NaN or infinity.
    """
    asking = {i: task.compared for i, task in enumerate(plan.tasks) if task.compared is not None}
    if not asking:
        return plan
    found: dict[int, Sequence[float]] = {}
    for index, request in asking.items():
        found[index] = _numbers(plan.tasks[index], request, reader, nonfinite, threads)
        if advance is not None:
            advance(plan.tasks[index].stored_bytes)
    places = {index: place for place, index in enumerate(asking)}

    @cache
    def lowest(expert: int, count: int) -> list[bool]:
        return among_lowest([found[index][expert] for index in asking], count)

    def answer(index: int) -> tuple[bool, ...]:
        experts = range(len(found[index]))
        return tuple(lowest(i, asking[index].count)[places[index]] for i in experts)

    tasks = tuple(
        replace(task, lowest=answer(i)) if i in asking else task
        for i, task in enumerate(plan.tasks)
    )
    return replace(plan, tasks=tasks)


def _numbers(
    task: TensorTask,
    request: LowestTensors,
    reader: Reader,
    nonfinite: NonFinite,
    threads: int,
) -> Sequence[float]:
    """What the method's function finds of one tensor, a number for each expert."""
    from mergesafe.engine.run.tensor_kernels import TensorKernels
    from mergesafe.ops.backends.registry import get_backend

    kernels = TensorKernels(get_backend("reference"), nonfinite.rule == "zero", threads=threads)
    opened = [
        source.view.open(Room(reader, source.view.numel, threads=threads))
        for source in task.sources
    ]
    buffers = [_read(task, index, view) for index, view in enumerate(opened)]
    try:
        flags, numbers = kernels.numbers(buffers, request, task.context)
    except TileError as caught:
        nonfinite.check(task, flagged(caught.flags, range(len(buffers))), False)
        raise broken(task.method, task.context, caught.error) from caught.error.__cause__
    if flags:
        nonfinite.check(task, flagged(flags, range(len(buffers))), False)
    return numbers


def _read(task: TensorTask, index: int, opened: OpenView) -> Buffer:
    view = task.sources[index].view
    opened.fetch(0, view.numel)
    address, elements = opened.make(0, view.numel)
    return Buffer(address, elements, view.dtype, task.cast_of(index) or view.dtype)
