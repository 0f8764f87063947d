"""Wrong numbers, lists and types at the extension's calls: an exception, or an answer, and no more.

Each call begins as one that fits real arrays and is then changed in a few places. Addresses that
are not 0 stay those of arrays that are large enough: nobody can tell whether memory lies at one.
Under sanitizers (`make sanitize`) this also shows that what is taken reads nothing else.
"""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import mergesafe._native as _native

from . import emulated

#: Elements that calls may be about, and the bytes of each array: room for float64 and tables.
MOST = 300
ROOM = 1 << 20
CASES = 400
ALLOWED = (ValueError, TypeError, MemoryError, OverflowError, RuntimeError)

_memory = [ctypes.create_string_buffer(bytes(ROOM) + bytes(64)) for _ in range(6)]
ADDRESSES = [(ctypes.addressof(block) + 63) // 64 * 64 for block in _memory]

WRONG: list[Any] = [
    -1, 0, 1, 2, 3, 7, 63, 64, 255, 1 << 16, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 32) - 1,
    1 << 40, 1 << 61, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, -(1 << 63), 1 << 63, (1 << 64) - 1,
    1 << 64, 1 << 200, 0.5, math.nan, math.inf, -math.inf, 1e300,
    "x", b"x", None, True, [], [0], (), (1, 2), {}, object(),
]  # fmt: skip
#: Numbers of elements from here on are refused; smaller ones that are larger than the arrays are
#: true as far as the extension can know.
REFUSED = (1 << 61) + 1


class Struct(list[Any]):
    """Arguments of one of the extension's structs, which :func:`built` makes."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        super().__init__(values)
        self.name = name


def built(value: Any) -> Any:
    """With structs in place of their arguments, at any depth of lists."""
    if isinstance(value, Struct):
        return getattr(_native, value.name)(*map(built, value))
    return [built(item) for item in value] if type(value) is list else value


class Made:
    """Arguments that fit each other, of random sizes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.n = self.random.choice([0, 1, 2, 17, 64, 255, MOST])
        self.count = self.random.choice([1, 1, 2, 3, 5])

    def address(self) -> int:
        return self.random.choice(ADDRESSES)

    def input(self) -> Struct:
        codes = self.random.randrange(3), self.random.randrange(3)
        return Struct("Input", [self.address(), *codes])

    def output(self) -> Struct:
        return Struct("Output", [self.address(), 2])

    def inputs(self) -> list[Any]:
        return [self.input() for _ in range(self.count)]

    def vectors(self) -> list[Any]:
        return [
            Struct("TaskVector", [x, 0.5, 1.0, 0, 0x7FFFFFFF, random, 1 << 31, 5])
            for x in self.inputs()
            for random in [self.random.random() < 0.5]
        ]

    def ranks(self) -> list[tuple[int, int]]:
        experts = sorted(self.random.randrange(self.count) for _ in range(3))
        return [(i, self.random.randint(1, self.n)) for i in experts] if self.n else []

    def changed(self, value: Any) -> Any:
        """With something wrong, at any depth of structs, tuples and lists."""
        if isinstance(value, (list, tuple)) and value and self.random.random() < 0.8:
            items = list(value)
            how = self.random.randrange(4)
            at = self.random.randrange(len(items))
            if how == 0:
                del items[at]
            elif how == 1:
                items.insert(at, items[at])
            else:
                items[at] = self.changed(items[at])
            return Struct(value.name, items) if isinstance(value, Struct) else type(value)(items)
        wrong = self.random.choice(WRONG)
        # An address stays one, or becomes 0 or one that no memory has.
        if value in ADDRESSES and isinstance(wrong, int) and wrong > 0:
            return self.random.choice([0, value + 1, (1 << 64) - 4, -value])
        return wrong


def weighted_sum(m: Made) -> list[Any]:
    return [m.inputs(), [0.5] * m.count, m.output(), m.n, False, 2]


def merge_task_vectors(m: Made) -> list[Any]:
    return [m.input(), m.vectors(), m.output(), m.n, 7, 1, True, 1.0, False, 2]


def kth_magnitude(m: Made) -> list[Any]:
    return [m.input(), m.inputs(), m.ranks(), m.n, False, 2]


def magnitude_histogram(m: Made) -> list[Any]:
    values = 1 << 16
    return [m.input(), [m.input()], [3], Struct("Array", [m.address(), values]), m.n, False, 2]


def gram(m: Made) -> list[Any]:
    return [m.inputs(), [0.0] * m.count**2, m.n, False, 2]


def delta_norms(m: Made) -> list[Any]:
    return [m.input(), m.vectors(), 1, [0.0] * 2 * m.count, m.n, 3, False, 2]


def delta_gram(m: Made) -> list[Any]:
    return [m.input(), m.inputs(), [0.0] * m.count**2, m.n, False, 2]


def stock_rows(m: Made) -> list[Any]:
    return [m.input(), [m.input(), *m.inputs()], 1, m.output(), m.n, False, 2]


def tile_function(m: Made) -> list[Any]:
    scores, numbers = [Struct("Array", [m.address(), m.n])] * m.count, [0.5] * (1 + 5 * m.count)
    return ["pcb_balanced", m.input(), m.inputs(), scores, numbers, m.output(), m.n, False, 2]


def scores(m: Made) -> Struct:
    each, floors = [[0.0, 0.25, 0.5]] * m.count, [0.125] * m.count
    return Struct("TileScores", ["pcb_score", 1, each, floors, None, False])


def tile_scores(m: Made) -> list[Any]:
    outs = [Struct("Array", [m.address(), m.n])] * m.count
    return [scores(m), m.input(), m.inputs(), outs, m.n, False, 2]


def scored_tile(m: Made) -> list[Any]:
    numbers = [0.5] * (1 + 5 * m.count)
    given = [m.input(), m.inputs(), numbers, m.output(), m.n, False, 2]
    return ["pcb_balanced", scores(m), *given]


def compare(m: Made) -> list[Any]:
    width = m.count + 1
    totals, counts = [0.0] * width**2, [0] * 2 * m.count**2
    return [m.input(), m.inputs(), True, totals, counts, m.n, False, 2]


def fused(m: Made) -> list[Any]:
    """One with coefficients of single inputs and more than one state."""
    return ["ram", m.input(), m.inputs(), [0.5] * (1 + m.count), m.output(), m.n, False, 2]


def count_changes(m: Made) -> list[Any]:
    return [m.input(), m.inputs(), 0.25, [0] * 2 * m.count, m.n, False, 2]


def inner_products(m: Made) -> list[Any]:
    return [m.input(), m.inputs(), m.n, 2]


def merge_gradient(m: Made) -> list[Any]:
    return [m.input(), m.input(), m.vectors(), m.n, 64, 2, True, 2]


def add_low_rank(m: Made) -> list[Any]:
    return [m.input(), m.address(), m.address(), 2, 5, 0.5, 0, m.n, 2, m.address()]


def count_nonfinite(m: Made) -> list[Any]:
    return [m.input(), m.n]


def digest(m: Made) -> list[Any]:
    return [m.address(), 4 * m.n, 5]


def triad(m: Made) -> list[Any]:
    return [m.address(), m.address(), m.address(), 0.5, m.n, 2]


def use_isa(m: Made) -> list[Any]:
    return ["auto"]


CALLS: list[Callable[[Made], list[Any]]] = [
    weighted_sum, merge_task_vectors, kth_magnitude, magnitude_histogram, gram, delta_norms,
    delta_gram, stock_rows, tile_function, tile_scores, scored_tile, compare, fused,
    count_changes, inner_products, merge_gradient, add_low_rank, count_nonfinite, digest, triad,
    use_isa,
]  # fmt: skip


def within_room(call: str, arguments: list[Any]) -> bool:
    """Whether the arrays hold what a call that is taken would read: what only callers can know."""
    whole = [a for a in arguments if type(a) is int and a not in ADDRESSES]
    if call == "add_low_rank" and sum(6 < n < REFUSED for n in whole) > 1:
        return False
    return not any((MOST if call == "add_low_rank" else ROOM // 8) < n < REFUSED for n in whole)


def attempt(function: Callable[..., object], arguments: list[Any]) -> bool:
    """Whether the call was taken; the exceptions that are not allowed come through."""
    try:
        function(*built(arguments))
    except ALLOWED:
        return False
    return True


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_wrong_arguments(call: Callable[[Made], list[Any]]) -> None:
    function, taken, refused = getattr(_native, call.__name__), 0, 0
    for seed in range(CASES):
        made = Made(seed)
        arguments = call(made)
        assert attempt(function, arguments), arguments
        places = min(made.random.choice([1, 1, 2]), len(arguments))
        for at in made.random.sample(range(len(arguments)), places):
            arguments[at] = made.changed(arguments[at])
        if not within_room(call.__name__, arguments):
            continue
        if attempt(function, arguments):
            taken += 1
        else:
            refused += 1
    assert refused > CASES // 4
    assert taken > 0 or call is use_isa


@pytest.mark.parametrize("function", [c.__name__ for c in CALLS])
@pytest.mark.parametrize("given", [0, 1, 3, 30])
def test_wrong_numbers_of_arguments(function: str, given: int) -> None:
    with pytest.raises(TypeError):
        getattr(_native, function)(*[object()] * given)


def test_selections() -> None:
    refused = 0
    for seed in range(CASES):
        made = Made(seed)
        given = [made.n, made.ranks(), 0, made.address(), 1 << 12, False, 2]
        steps: list[tuple[str, list[Any]]] = [
            ("sample", [made.input(), made.inputs(), made.n]),
            ("add", [made.input(), made.inputs(), made.n]),
            ("add", [made.input(), made.inputs(), made.n]),
            ("finish", []),
            ("finish", []),
        ]
        changed = made.random.choice([given, *(arguments for _, arguments in steps[:3])])
        at = made.random.randrange(len(changed))
        changed[at] = made.changed(changed[at])
        made.random.shuffle(steps)
        if not within_room("", [*changed, given[2]]) or given[4] not in range(1 << 13):
            continue
        try:
            selection = _native.Selection(*given)
        except ALLOWED:
            refused += 1
            continue
        for name, arguments in steps:
            attempt(getattr(selection, name), arguments)
    assert refused > 20


def test_jobs_on_devices() -> None:
    """Lists of jobs, which the emulated kernels then work on where they are taken."""
    cuda = emulated.module().cuda
    taken = refused = 0
    for seed in range(CASES):
        made = Made(seed)
        jobs = made.random.choice([1, 2, 3])
        arrays, inputs = [made.address() for _ in range(jobs)], jobs * made.count
        lists: list[Any] = [
            made.count, list(arrays), [0] * jobs, list(arrays), [1] * jobs, [made.n] * jobs,
            [0] * jobs, [made.address() for _ in range(inputs)], [2] * inputs,
        ]  # fmt: skip
        at = made.random.randrange(len(lists))
        if seed % 8:
            lists[at] = made.changed(lists[at])
        sizes = lists[5] if isinstance(lists[5], list) else []
        if any(isinstance(n, int) and MOST < n <= 1 << 42 for n in sizes):
            continue
        try:
            made_jobs = cuda.Jobs(*lists)
        except ALLOWED:
            refused += 1
            continue
        values = made.random.choice([inputs, inputs, inputs - 1, 1 << 62])
        weights = Struct("Array", [ADDRESSES[0], values])
        taken += attempt(cuda.sums, [made_jobs, weights, 0, 0])
    assert refused > CASES // 4
    assert taken > CASES // 40
