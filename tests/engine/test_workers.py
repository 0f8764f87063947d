"""Worker threads: the first error stops the others and is the one that is raised."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import digest, leftovers, recipe, save

import mergesafe
from mergesafe.engine.run.native_kernels import NativeKernels
from mergesafe.errors import ResourceError

COUNT = 400


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """A merge of many tensors."""
    tensors = {f"w{i}": torch.ones(8) * i for i in range(COUNT)}
    models = [save(tmp_path / name, tensors) for name in ("a", "b")]
    return recipe("linear", models, each={"weight": 1})


class Mistake(Exception):
    pass


class Calls:
    """Combinations that were begun, and how many of them have not returned."""

    def __init__(self, before: Callable[[int], None]) -> None:
        self.before, self.lock = before, threading.Lock()
        self.count = self.running = 0

    def __call__(self, kernels: NativeKernels, *arguments: Any) -> int:
        with self.lock:
            number, self.count, self.running = self.count, self.count + 1, self.running + 1
        try:
            self.before(number)
            return COMBINE(kernels, *arguments)
        finally:
            with self.lock:
                self.running -= 1


COMBINE = NativeKernels.combine


def watch(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> Calls:
    """Call ``before`` with the number of the call before every combination."""
    calls = Calls(before)
    monkeypatch.setattr(NativeKernels, "combine", lambda *arguments: calls(*arguments))
    return calls


@pytest.mark.parametrize("threads", [1, 4])
def test_first_error_stops_the_others_and_is_raised(
    threads: int, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        if number == 10:
            raise Mistake("the first")
        if number > 10:
            time.sleep(0.01)
            raise Mistake("a later one")

    calls = watch(monkeypatch, fail)
    with pytest.raises(Mistake, match="the first"):
        mergesafe.merge(content, tmp_path / "out", threads=threads)
    assert calls.count <= 11 + threads
    assert calls.running == 0
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("threads", [1, 4])
def test_interrupt_waits_for_the_workers(
    threads: int, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(number: int) -> None:
        if number == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2 if number >= 3 else 0)

    calls = watch(monkeypatch, interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            mergesafe.merge(content, tmp_path / "out", threads=threads)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls.running == 0
    assert calls.count < COUNT
    assert leftovers(tmp_path) == []


def refuse_threads(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """The system gives no worker from number ``first`` on."""
    original = threading.Thread.start

    def start(self: threading.Thread) -> None:
        number = self.name.removeprefix("merge-")
        if number.isdigit() and int(number) >= first:
            raise RuntimeError("can't start new thread")
        original(self)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_threads_that_cannot_start_leave_their_work_to_the_others(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mergesafe.merge(content, tmp_path / "whole", threads=4)
    refuse_threads(monkeypatch, first=2)
    calls = watch(monkeypatch, lambda number: None)
    mergesafe.merge(content, tmp_path / "out", threads=4)
    assert calls.count == COUNT
    assert digest(tmp_path / "whole") == digest(tmp_path / "out")


def test_without_any_thread_nothing_is_left(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_threads(monkeypatch, first=0)
    with pytest.raises(ResourceError, match="thread"):
        mergesafe.merge(content, tmp_path / "out", threads=4)
    assert leftovers(tmp_path) == []


def test_an_error_wakes_workers_that_wait_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven workers, memory for two: the others wait in the arena when one fails."""

    def fail(number: int) -> None:
        time.sleep(0.05)
        raise Mistake

    tensors = {f"w{i}": torch.ones(1 << 20).bfloat16() for i in range(8)}
    models = [save(tmp_path / name, tensors) for name in ("a", "b", "c")]
    content = recipe("ties", models[1:], models[0], each={"weight": 1, "density": 0.5})
    calls = watch(monkeypatch, fail)
    with pytest.raises(Mistake):
        mergesafe.merge(content, tmp_path / "out", threads=7, memory="16MiB")
    assert 0 < calls.count < 7
    assert calls.running == 0


def test_progress_counts_every_byte(content: dict[str, Any], tmp_path: Path) -> None:
    done: list[int] = []
    planned: list[int] = []

    def progress(plan: Any, schedule: Any) -> Callable[[int], None]:
        planned.append(schedule.bytes_read + plan.bytes_out)
        return done.append

    mergesafe.merge(content, tmp_path / "out", progress=progress)
    assert [sum(done)] == planned


@pytest.mark.parametrize("memory", ["16MiB", "64MiB"])
def test_progress_counts_every_pass(memory: str, tmp_path: Path) -> None:
    values = torch.arange(3 << 20).to(torch.bfloat16)
    ids = torch.arange(10)
    models = [save(tmp_path / n, {"w": values * i, "ids": ids}) for i, n in enumerate("abc")]
    content = recipe("ties", models[1:], models[0], each={"weight": 1, "density": 0.5})
    done: list[int] = []
    planned: list[int] = []

    def progress(plan: Any, schedule: Any) -> Callable[[int], None]:
        planned.append(schedule.bytes_read + plan.bytes_out)
        return done.append

    mergesafe.merge(content, tmp_path / "out", progress=progress, memory=memory)
    assert [sum(done)] == planned
