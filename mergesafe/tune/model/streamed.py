"""Inputs of a merge that are read from the checkpoints in every pass, in bounded memory.

One thread reserves memory for the tensors that will be used next, in their order, and others read
them meanwhile; whoever uses a tensor waits for it and gives its memory back. A pass that goes
another way than foretold costs what was read ahead, and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

from mergesafe.chat.weights import lora_factors, plain_bytes, read
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.view import View
from mergesafe.engine.memory import ALIGNMENT, Arena, Slice, aligned, format_size
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.run.gpu import pin, unpin
from mergesafe.errors import ArgumentError
from mergesafe.tune.model.inputs import (
    Resident,
    distinct,
    made_of,
    resident_bytes,
)

#: Threads that read; on one disk or one memory bus more do not help.
THREADS: Final = 2
#: Tensors that lie on a device before they are used.
AHEAD_ON_DEVICE: Final = 4


@dataclass(eq=False)
class _Ahead:
    """A tensor that was foretold: its inputs, once they are there, and the memory they lie in."""

    task: TensorTask
    ready: Future[list[torch.Tensor]] = field(default_factory=Future)
    memory: Slice | None = None
    dropped: bool = False


class InputStream:
    """Inputs within ``budget`` bytes of memory, LoRA factors and what is ``kept`` included.

    ``kept``: names of tensors that stay, because their inputs are used beyond the block that opens
    them.

    With a CUDA ``device`` the budget is of pinned host memory, from which inputs are copied; with
    ``host`` they lie there already, and nothing is read.

    Raises:
        ArgumentError: the budget does not hold the inputs of the largest tensor.
    """

    reused = True

    def __init__(
        self,
        tasks: Sequence[TensorTask],
        device: torch.device,
        budget: int,
        kept: Collection[str],
        host: Resident | None = None,
    ) -> None:
        self._device = device
        self._tasks = {task.name: task for task in tasks}
        self._host = host
        self._reader = Reader()
        stay = [task for task in tasks if task.name in kept]
        self._kept = frozenset(kept)
        self._resident = Resident(stay, device)
        large = [task for task in tasks if host is None and task.name not in self._kept]
        pairs = {s.view.lora: None for task in large for s in task.sources if s.view.lora}
        self._factors = {pair: lora_factors(pair, self._reader) for pair in pairs}
        fixed = sum(a.nbytes + b.nbytes for a, b in self._factors.values())
        fixed += sum(map(resident_bytes, stay))
        largest = max(large, key=_need, default=None)
        if largest is not None and _need(largest) > budget - fixed:
            least = -(-(fixed + _need(largest)) >> 20)  # rounded up, so that it suffices
            raise ArgumentError(
                f"--memory {format_size(budget)} is too small for the inputs of tensor "
                f"'{largest.name}'; give at least {least}MiB"
            )
        self._arena = Arena(max(budget - fixed, ALIGNMENT))
        self._pinned = device.type == "cuda" and pin(self._arena.address, self._arena.size)
        self._copies: Any = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._places = threading.Semaphore(AHEAD_ON_DEVICE)
        self._ahead: deque[_Ahead] = deque()
        self._waiting: deque[_Ahead] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pool = ThreadPoolExecutor(THREADS, "mergesafe-tune-read")
        self._reserver = threading.Thread(target=self._reserve, daemon=True)
        self._reserver.start()

    def expect(self, names: Sequence[str]) -> None:
        with self._changed:
            self._drop(len(self._ahead))
            self._ahead.extend(
                _Ahead(self._tasks[name]) for name in names if name not in self._kept
            )
            self._waiting.extend(self._ahead)
            self._changed.notify_all()

    @contextmanager
    def open(self, task: TensorTask) -> Iterator[list[torch.Tensor]]:
        if task.name in self._kept:
            with self._resident.open(task) as inputs:
                yield inputs
            return
        entry = self._taken(task)
        try:
            inputs = entry.ready.result()
            for tensor in inputs if self._copies is not None else ():
                tensor.record_stream(torch.cuda.current_stream(self._device))
            yield inputs
        finally:
            self._release(entry)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._drop(len(self._ahead))
            self._changed.notify_all()
        self._arena.close()
        self._reserver.join()
        self._pool.shutdown()
        self._reader.close()
        if self._pinned:
            unpin(self._arena.address)

    def _taken(self, task: TensorTask) -> _Ahead:
        """The tensor's entry: what was foretold before it is dropped, or all of it."""
        with self._changed:
            places = (i for i, entry in enumerate(self._ahead) if entry.task is task)
            place = next(places, None)
            if place is None:
                self._drop(len(self._ahead))
                entry = _Ahead(task)
                self._waiting.append(entry)
                self._changed.notify_all()
                return entry
            self._drop(place)
            return self._ahead.popleft()

    def _drop(self, count: int) -> None:
        for _ in range(count):
            entry = self._ahead.popleft()
            entry.dropped = True
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                entry.ready.add_done_callback(partial(self._released, entry))

    def _released(self, entry: _Ahead, _: object) -> None:
        self._release(entry)

    def _release(self, entry: _Ahead) -> None:
        if entry.memory is not None:
            entry.memory.release()
            entry.memory = None
        if self._copies is not None:
            self._places.release()

    # --- the threads -------------------------------------------------------------------------

    def _reserve(self) -> None:
        """Memory for one entry after another, which keeps them in order."""
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                entry = self._waiting.popleft()
            if self._copies is not None:
                self._places.acquire()
            entry.memory = self._arena.acquire(_need(entry.task) if self._host is None else 1)
            if entry.memory is None:
                entry.ready.cancel()
                return
            self._pool.submit(self._load, entry)

    def _load(self, entry: _Ahead) -> None:
        try:
            entry.ready.set_result([] if entry.dropped else self._inputs(entry))
        except BaseException as error:  # handed to whoever waits for the tensor
            entry.ready.set_exception(error)

    def _inputs(self, entry: _Ahead) -> list[torch.Tensor]:
        if self._host is not None:
            with self._host.open(entry.task) as inputs:
                return self._copied(inputs)
        task, memory = entry.task, entry.memory
        assert memory is not None  # reserved before
        stored: dict[View, torch.Tensor] = {}
        made: dict[View, torch.Tensor] = {}
        for source in distinct(task):
            view = source.view
            if view.plain not in stored:
                raw = _bytes(memory, plain_bytes(view.plain))
                stored[view.plain] = read(view.plain, self._reader, raw)
            out = None
            if view.lora is not None:
                out = _bytes(memory, 4 * view.numel).view(torch.float32)
                out = out.view(view.shape)
            cast = task.cast_of(task.sources.index(source))
            made[view] = made_of(view, stored[view.plain], self._factors, cast, out)
        inputs = self._copied([made[source.view] for source in task.sources])
        if self._copies is not None:  # they lie elsewhere now
            memory.release()
            entry.memory = None
        return inputs

    def _copied(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """On the device, each distinct tensor once; the copies are complete."""
        if self._copies is None:
            return [*inputs]
        with torch.cuda.stream(self._copies):
            moved = {id(x): x.to(self._device, non_blocking=True) for x in inputs}
        self._copies.synchronize()
        return [moved[id(x)] for x in inputs]


class Trail:
    """The order in which passes take their tensors, so that the next can be told beforehand.

    Before there has been a pass, that of ``names``, and the reverse in backward.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._known = {False: [*names], True: [*names, *reversed(names)]}
        self._backward: bool | None = None
        self._seen: list[str] = []

    def add(self, name: str) -> None:
        """A tensor was taken."""
        self._seen.append(name)

    def begin(self, *, backward: bool) -> list[str]:
        """What a pass that begins now will take, with or without a backward pass."""
        if self._backward is not None and self._seen:
            self._known[self._backward] = self._seen
        self._backward, self._seen = backward, []
        return self._known[backward]


def _need(task: TensorTask) -> int:
    """Bytes of memory that a tensor's inputs take."""
    stored = {source.view.plain for source in task.sources}
    made = [source.view for source in distinct(task) if source.view.lora]
    return sum(aligned(plain_bytes(view)) for view in stored) + sum(
        aligned(4 * view.numel) for view in made
    )


def _bytes(memory: Slice, count: int) -> torch.Tensor:
    """The next bytes of reserved memory."""
    _, view = memory.take(count)
    return torch.frombuffer(view, dtype=torch.uint8)
