"""Kernels in many threads at a time, in processes that fork, that end, and that may start none."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

import mergesafe._native as _native
from mergesafe._native import Input, Output, TaskVector
from mergesafe.checkpoint.format.digest import add, digest_at

ELEMENTS = 3 << 17
BYTES = 2 * ELEMENTS
BF16 = 0
THREADS = 4

BASE, EXPERT = (ctypes.create_string_buffer(os.urandom(BYTES), BYTES) for _ in range(2))


def an_input(block: ctypes.Array[ctypes.c_char]) -> Input:
    return Input(ctypes.addressof(block), BF16, BF16)


def merged() -> bytes:
    out = ctypes.create_string_buffer(BYTES)
    vector = TaskVector(an_input(EXPERT), 0.5, 1.0, 0, 0x7FFFFFFF, True, 1 << 31, 7)
    _native.merge_task_vectors(
        an_input(BASE), [vector], Output(ctypes.addressof(out), BF16), ELEMENTS, 0, 1, True, 1.0,
        False, THREADS,
    )  # fmt: skip
    return bytes(out)


def ranked() -> list[int]:
    ranks = [(0, 1), (0, ELEMENTS // 3), (0, ELEMENTS)]
    return _native.kth_magnitude(
        an_input(BASE), [an_input(EXPERT)], ranks, ELEMENTS, False, THREADS
    )[1]


def counted() -> list[float]:
    inputs = [an_input(BASE), an_input(EXPERT)]
    return _native.gram(inputs, [0.0] * 4, ELEMENTS, True, THREADS)[1]


def digested() -> int:
    block, total = _native.digest_block * 8, 0
    for begin in range(0, BYTES, block):
        size, number = min(block, BYTES - begin), begin // _native.digest_block
        total = add(total, digest_at(ctypes.addressof(BASE) + begin, size, number))
    return total


CALLS: list[Callable[[], object]] = [merged, ranked, counted, digested]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_many_threads_get_the_answer_of_one(call: Callable[[], object]) -> None:
    wanted, found = call(), []
    threads = [
        threading.Thread(target=lambda: found.extend(call() for _ in range(5))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 20


def test_a_selection_serves_one_thread_at_a_time() -> None:
    """Its calls run without Python's lock; a second one meanwhile is refused, not a race."""
    storage = (ctypes.c_uint32 * (1 << 20))()
    inputs = an_input(BASE), [an_input(EXPERT)]
    selection = _native.Selection(
        50 * ELEMENTS, [(0, 5)], 0, ctypes.addressof(storage), len(storage), False, 1
    )
    outcomes: list[str] = []

    def work() -> None:
        for _ in range(25):
            try:
                selection.add(*inputs, ELEMENTS)
                outcomes.append("taken")
            except RuntimeError as error:
                outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"taken", "a selection is used by two threads at a time"}
    assert "taken" in outcomes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(
    "TSAN_OPTIONS" in os.environ, reason="ThreadSanitizer knows no threads after a fork beside some"
)
def test_a_process_forked_meanwhile_has_kernels_too() -> None:
    wanted, stop = (merged(), ranked()), threading.Event()

    def work() -> None:
        while not stop.is_set():
            ranked()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if (merged(), ranked()) == wanted else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


#: Daemon threads that are in kernels, most of the time, when the interpreter ends.
ENDS = """
import ctypes, threading, time
from mergesafe import _native
n = 1 << 18
def work():
    block = (ctypes.c_float * n)()
    at = ctypes.addressof(block)
    while True:
        _native.triad(at, at, at, 1.0, n, 2)
        _native.digest(at, 4 * n, 0)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
"""


def test_an_interpreter_that_ends_takes_its_threads_along() -> None:
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
