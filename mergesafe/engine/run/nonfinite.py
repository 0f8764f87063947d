"""NaN and infinity: what ``--on-nonfinite`` means."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import Room
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.run.kernels import Buffer
from mergesafe.engine.run.native_kernels import count_nonfinite
from mergesafe.errors import NonFiniteError
from mergesafe.outline.sources import Operand

#: Elements that are counted at a time.
_PIECE = 1 << 18


class NonFinite:
    """Collects what kernels report. ``rule`` is error, warn or zero.

    Reports come tile by tile and from any thread, so that warnings are only made when all is
    done: they must not depend on how the work was cut.
    """

    def __init__(self, rule: str, reader: Reader) -> None:
        self.rule = rule
        self._reader = reader
        self._lock = threading.Lock()
        self._inputs: dict[str, set[int]] = {}
        self._outputs: set[str] = set()

    def check(self, task: TensorTask, inputs: Iterable[int], output: bool) -> None:
        """Inputs of the task, by index, that held NaN or infinity, and whether its output does.

        Raises:
            NonFiniteError: under the rule ``error``.
        """
        inputs = set(inputs)
        with self._lock:
            self._inputs.setdefault(task.name, set()).update(inputs)
            if output:
                self._outputs.add(task.name)
        if self.rule != "error":
            return
        for message, remedy in self._about_inputs(task, inputs):
            raise NonFiniteError(
                f"{message}. {remedy}, or accept it with --on-nonfinite zero "
                "(use 0 instead) or --on-nonfinite warn (merge it)."
            )
        if output:
            raise NonFiniteError(f"{_overflow(task)}. {_overflow_remedy(task)}.")

    def warnings(self, tasks: Iterable[TensorTask]) -> list[str]:
        """What was accepted, in the order of the tasks."""
        done = "replaced by 0" if self.rule == "zero" else "given to the method as they are"
        found = []
        for task in tasks:
            inputs = self._inputs.get(task.name, set())
            about = [f"{message}; {done}" for message, _ in self._about_inputs(task, inputs)]
            found += about
            if task.name in self._outputs and (self.rule == "zero" or not about):
                found.append(_overflow(task))
        return found

    def _about_inputs(self, task: TensorTask, inputs: Iterable[int]) -> Iterable[tuple[str, str]]:
        """What is wrong with each, and what to do."""
        for index in sorted(inputs):
            source = task.sources[index]
            cast = task.cast_of(index)
            count = self._count(source, cast)
            if count or source.view.lora:  # else an input that shares its flag with others
                yield _message(task, source, count, cast), _remedy(source, cast)

    def _count(self, source: Operand, cast: str | None) -> int:
        """Values of the input before its adapter that are not finite after the cast at load."""
        view = source.view.plain
        opened = view.open(Room(self._reader, min(_PIECE, view.numel)))
        count = 0
        for begin in range(0, view.numel, _PIECE):
            n = min(_PIECE, view.numel - begin)
            opened.fetch(begin, n)
            buffer = Buffer(*opened.make(begin, n), view.dtype, cast or view.dtype)
            count += count_nonfinite(buffer, n)
        return count


def _overflow(task: TensorTask) -> str:
    return (
        f"tensor {task.title()}: merging finite inputs gave values beyond the range of "
        f"{task.out_dtype}"
    )


def _overflow_remedy(task: TensorTask) -> str:
    if task.out_dtype == "F16":
        return "Use out_dtype: bfloat16 or float32 in the recipe"
    return "The weights or scales of the recipe are too large"


def _message(task: TensorTask, source: Operand, count: int, cast: str | None) -> str:
    name = task.title(source.view.info.name)
    if not count:
        return f"{source.model}: tensor {name} holds NaN or infinity after its adapter is applied"
    values = "1 value that is" if count == 1 else f"{count:,} values that are"
    how = f" when read as {cast}" if _narrowed(source, cast) else ""
    return f"{source.view.info.path}: tensor {name} holds {values} NaN or infinite{how}"


def _narrowed(source: Operand, cast: str | None) -> bool:
    return cast not in (None, "F32", source.view.nominal)  # float32 holds all of them


def _remedy(source: Operand, cast: str | None) -> str:
    repair = "Repair or replace the checkpoint"
    if source.view.lora is None and _narrowed(source, cast):
        return f"{repair}, set dtype: float32 in the recipe if they are finite there"
    return repair
