"""The arena: first fit, fairness, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from mergesafe.engine.memory import ALIGNMENT, Arena, Slice

PAGE = ALIGNMENT
TIMEOUT = 20


class Taker:
    """A thread that acquires ``size`` bytes and keeps the slice."""

    def __init__(self, arena: Arena, size: int) -> None:
        self.slice: Slice | None = None
        self.thread = threading.Thread(target=self._run, args=(arena, size), daemon=True)
        waiting = len(arena._waiting)
        self.thread.start()
        until(lambda: len(arena._waiting) > waiting or not self.thread.is_alive())

    def _run(self, arena: Arena, size: int) -> None:
        self.slice = arena.acquire(size)

    def result(self) -> Slice | None:
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()
        return self.slice

    @property
    def waits(self) -> bool:
        self.thread.join(0.05)
        return self.thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def take(arena: Arena, pages: int) -> Slice:
    taken = arena.acquire(pages * PAGE)
    assert taken is not None
    return taken


def test_slices_are_disjoint_aligned_and_writable() -> None:
    arena = Arena(4 * PAGE)
    first, second = take(arena, 1), take(arena, 2)
    (a, view), (b, other) = first.take(10), second.take(PAGE + 1)
    assert (a % PAGE, b % PAGE, b - a) == (0, 0, PAGE)
    view[:] = b"x" * 10
    other[:] = b"y" * (PAGE + 1)
    assert bytes(view) == b"x" * 10


def test_a_slice_cannot_be_overdrawn() -> None:
    taken = take(Arena(2 * PAGE), 1)
    taken.take(1)
    with pytest.raises(AssertionError, match="asked for"):
        taken.take(1)


def test_more_than_the_arena_is_a_mistake_not_a_wait() -> None:
    with pytest.raises(AssertionError):
        Arena(PAGE).acquire(PAGE + 1)


def test_the_lowest_gap_that_is_large_enough_is_taken() -> None:
    arena = Arena(6 * PAGE)
    one, _, two, _ = (take(arena, pages) for pages in (1, 1, 2, 1))
    one.release()
    two.release()
    assert take(arena, 2).begin == 2 * PAGE
    assert take(arena, 1).begin == 0
    assert take(arena, 1).begin == 5 * PAGE


def test_neighbouring_gaps_are_one() -> None:
    arena = Arena(3 * PAGE)
    slices = [take(arena, 1) for _ in range(3)]
    slices[1].release()
    slices[0].release()
    assert take(arena, 2).begin == 0


def test_a_release_lets_the_next_one_in() -> None:
    arena = Arena(PAGE)
    held = take(arena, 1)
    taker = Taker(arena, PAGE)
    assert taker.waits
    held.release()
    assert taker.result() is not None


def test_a_large_request_is_not_overtaken() -> None:
    arena = Arena(4 * PAGE)
    held = take(arena, 1)
    large, small = Taker(arena, 4 * PAGE), Taker(arena, PAGE)
    assert large.waits
    assert small.waits, "three pages are free, but the large request came first"
    held.release()
    taken = large.result()
    assert taken is not None
    assert small.waits
    taken.release()
    assert small.result() is not None


def test_one_release_serves_all_that_fit() -> None:
    arena = Arena(3 * PAGE)
    held = take(arena, 3)
    takers = [Taker(arena, PAGE) for _ in range(3)]
    held.release()
    begins = [taken.begin for taker in takers if (taken := taker.result()) is not None]
    assert begins == [0, PAGE, 2 * PAGE]


def test_close_wakes_everyone() -> None:
    arena = Arena(PAGE)
    held = take(arena, 1)
    takers = [Taker(arena, PAGE) for _ in range(3)]
    arena.close()
    assert [taker.result() for taker in takers] == [None] * 3
    held.release()
    assert arena.acquire(PAGE) is None


def test_many_threads_never_share_a_byte() -> None:
    arena = Arena(8 * PAGE)
    errors: list[int] = []

    def work(number: int) -> None:
        for i in range(200):
            taken = arena.acquire((1 + (number + i) % 5) * PAGE)
            assert taken is not None
            _, view = taken.take(taken.size)
            view[:] = bytes([number]) * taken.size
            if bytes(view) != bytes([number]) * taken.size:
                errors.append(number)
            taken.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    assert take(arena, 8).begin == 0
