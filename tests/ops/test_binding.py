"""The extension compares the lengths of what it is given before any kernel reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mergesafe._native as _native
from mergesafe._native import Array, Input, Output, TaskVector

from . import emulated

N = 8
X = torch.ones(N)
OUT = torch.zeros(N)
F32 = 2
BINS = _native.histogram_bins


def an_input() -> Input:
    return Input(address=X.data_ptr(), dtype=F32, cast=F32)


def nothing() -> Input:
    return Input(address=0, dtype=F32, cast=F32)


def a_vector() -> TaskVector:
    return TaskVector(
        input=an_input(), weight=1.0, rescale=1.0, lo=0, hi=0x7FFFFFFF, random=False, threshold=0,
        key=0,
    )  # fmt: skip


def out(address: int | None = None) -> Output:
    return Output(address=OUT.data_ptr() if address is None else address, dtype=F32)


def merge(**changed: Any) -> int:
    given = {"out": out(), "n": N, "offset": 0, "elect": 0, "threads": 1} | changed
    return _native.merge_task_vectors(
        an_input(), [a_vector()], given["out"], given["n"], given["offset"], given["elect"], False,
        1.0, False, given["threads"],
    )  # fmt: skip


def kth(ranks: list[tuple[int, int]], n: int = N) -> Any:
    return _native.kth_magnitude(an_input(), [an_input()] * 2, ranks, n, False, 1)


def histogram(prefixes: list[int], values: int) -> int:
    counts = torch.zeros(2 * BINS, dtype=torch.int64)
    array = Array(address=counts.data_ptr(), values=values)
    return _native.magnitude_histogram(
        an_input(), [an_input()] * 2, prefixes, array, N, False, 1
    )  # fmt: skip


def selection(ranks: list[tuple[int, int]], experts: int) -> int:
    storage = torch.zeros(1 << 16, dtype=torch.int32)
    made = _native.Selection(N, ranks, 0, storage.data_ptr(), storage.numel(), False, 1)
    return made.add(an_input(), [an_input()] * experts, N)


def compare(totals: int, counts: int) -> Any:
    return _native.compare(
        an_input(), [an_input()] * 2, True, [0.0] * totals, [0] * counts, N, False, 1
    )


def low_rank(**changed: Any) -> None:
    """Two rows of four, of rank 1, with something changed."""
    given: dict[str, Any] = {
        "w": an_input(),
        "a": X.data_ptr(),
        "b": X.data_ptr(),
        "rank": 1,
        "columns": 4,
        "scale": 1.0,
        "begin": 0,
        "end": N,
        "threads": 1,
        "out": OUT.data_ptr(),
    } | changed
    _native.add_low_rank(*given.values())


#: What is wrong: the call, and what the message says of what is given and what is expected.
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "too few weights": (
        lambda: _native.weighted_sum([an_input()] * 3, [1.0, 1.0], out(), N, False, 1),
        "weights has 2 values; expected 3",
    ),
    "too many weights": (
        lambda: _native.weighted_sum([an_input()], [1.0, 1.0], out(), N, False, 1),
        "weights has 2 values; expected 1",
    ),
    "no inputs": (
        lambda: _native.weighted_sum([], [], out(), N, False, 1),
        "number of inputs is 0; expected a number in [1, ",
    ),
    "gram": (
        lambda: _native.gram([an_input()] * 3, [0.0] * 4, N, False, 1),
        "totals has 4 values; expected 9",
    ),
    "norms": (
        lambda: _native.delta_norms(an_input(), [a_vector()] * 2, 0, [0.0] * 2, N, 0, False, 1),
        "totals has 2 values; expected 4",
    ),
    "norm": (
        lambda: _native.delta_norms(an_input(), [a_vector()], 3, [0.0] * 2, N, 0, False, 1),
        "norm is 3; expected a number in [0, 2]",
    ),
    "products": (lambda: compare(4, 8), "totals has 4 values; expected 9"),
    "counts": (lambda: compare(9, 4), "counts has 4 values; expected 8"),
    "counts of changes": (
        lambda: _native.count_changes(an_input(), [an_input()] * 2, 0.5, [0] * 3, N, False, 1),
        "totals has 3 values; expected 4",
    ),
    "expert of a rank": (lambda: kth([(0, 1), (2, 1)]), "is 2; expected a number in [0, 1]"),
    "negative expert": (lambda: kth([(-1, 1)]), "is -1; expected a number in [0, 1]"),
    "descending experts": (lambda: kth([(1, 1), (0, 1)]), "is 0; expected a number in [1, 1]"),
    "rank 0": (lambda: kth([(0, 0)]), "k is 0; expected a number in [1, 8]"),
    "rank beyond the end": (lambda: kth([(0, 9)]), "k is 9; expected a number in [1, 8]"),
    "rank in a selection": (lambda: selection([(0, 9)], 1), "k is 9; expected a number in [1, 8]"),
    "expert of a selection": (
        lambda: selection([(0, 1), (1, 1)], 1),
        "number of experts is 1; expected a number in [2, ",
    ),
    "prefixes": (lambda: histogram([1], 2 * BINS), "prefixes has 1 values; expected 2"),
    "prefix": (lambda: histogram([1, BINS], 2 * BINS), f"is {BINS}; expected a number in [0, "),
    "bins": (lambda: histogram([], BINS), f"counts has {BINS} values; expected {2 * BINS}"),
    "elect": (lambda: merge(elect=3), "elect is 3; expected a number in [0, 2]"),
    "elements": (lambda: merge(n=-1), "n is -1; expected a number in [0, "),
    "threads": (lambda: merge(threads=0), "threads is 0; expected a number in [1, "),
    "dtype": (lambda: Output(0, 7), "dtype is 7; expected a number in [0, 2]"),
    "dtype of an input": (lambda: Input(0, 3, 0), "dtype is 3; expected a number in [0, 2]"),
    "cast of an input": (lambda: Input(0, 0, -1), "dtype is -1; expected a number in [0, 2]"),
    "columns": (lambda: low_rank(columns=0), "columns is 0; expected a number in [1, "),
    "range": (lambda: low_rank(begin=5, end=4), "begin is 5; expected a number in [0, 4]"),
    "no A": (lambda: low_rank(a=0), "address of a is 0; expected that of 4 values"),
    "no B": (lambda: low_rank(b=0), "address of b is 0; expected that of 2 values"),
    "rank": (lambda: low_rank(rank=-1), "rank is -1; expected a number in [0, "),
    "product": (lambda: low_rank(rank=1 << 60), "columns is 4; expected a number in [1, 1]"),
    "rows": (
        lambda: low_rank(rank=1 << 58, columns=1, end=9),
        "number of rows is 9; expected a number in [0, 7]",
    ),
    "end": (lambda: low_rank(end=1 << 62), f"end is {1 << 62}; expected a number in [0, "),
    "nowhere for it": (lambda: low_rank(out=0), "address of the output is 0; expected"),
    "no address": (
        lambda: _native.gram([nothing()], [0.0], N, False, 1),
        "address of an input is 0; expected that of 8 values",
    ),
    "no base": (
        lambda: _native.kth_magnitude(nothing(), [an_input()], [(0, 1)], N, False, 1),
        "address of the base is 0; expected",
    ),
    "nowhere to": (lambda: merge(out=out(0)), "address of the output is 0; expected"),
    "alignment": (
        lambda: merge(out=out(OUT.data_ptr() + 2)),
        f"is {OUT.data_ptr() + 2}; expected a multiple of 4",
    ),
    "more than memory": (lambda: merge(n=1 << 61), f"n is {1 << 61}; expected a number in [0, "),
    "beyond the last address": (
        lambda: merge(out=out((1 << 64) - 16)),
        "expected one after which 8 values of 4 bytes can lie",
    ),
    "offset": (lambda: merge(offset=(1 << 63) - 1), f"offset is {(1 << 63) - 1}; expected at most"),
    "inputs": (
        lambda: _native.inner_products(an_input(), [an_input()] * 16385, N, 1),
        "number of inputs is 16385; expected a number in [0, 16384]",
    ),
    "task vectors": (
        lambda: _native.merge_gradient(
            an_input(), an_input(), [a_vector()] * 16385, N, 0, 0, False, 1
        ),
        "number of task vectors is 16385; expected a number in [0, 16384]",
    ),
    "storage": (
        lambda: _native.Selection(N, [(0, 1)], 0, 0, 1 << 16, False, 1),
        "address of the storage is 0; expected",
    ),
    "size": (
        lambda: _native.Selection(N, [(0, 1)], 0, X.data_ptr(), -1, False, 1),
        "size is -1; expected a number in [0, ",
    ),
    "digest": (lambda: _native.digest(X.data_ptr(), -1, 0), "nbytes is -1; expected a number"),
    "bytes": (lambda: _native.digest(0, 1, 0), "address of the data is 0; expected"),
    "triad": (lambda: _native.triad(X.data_ptr(), 0, 0, 1.0, N, 1), "address of a vector is 0"),
    "nothing to look at": (
        lambda: _native.count_nonfinite(nothing(), N), "address of the input is 0; expected"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_both_numbers_are_named(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=r"expected") as raised:
        call()
    assert message in str(raised.value)


def test_nothing_may_lie_nowhere() -> None:
    assert _native.weighted_sum([nothing()], [1.0], out(0), 0, False, 1) == 0
    assert _native.gram([nothing()], [1.0], 0, False, 1)[1] == [1.0]
    assert _native.digest(0, 0, 0) == (0, 0)
    _native.triad(0, 0, 0, 1.0, 0, 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Input(0.5, F32, F32),
        lambda: Input(-1, F32, F32),
        lambda: Output(1 << 64, F32),
        lambda: Array(0, -1),
        lambda: TaskVector(None, 1.0, 1.0, 0, 0, False, 0, 0),
        lambda: TaskVector(an_input(), 1.0, 1.0, 0, 1 << 32, False, 0, 0),
        lambda: _native.gram([(X.data_ptr(), F32, F32)], [0.0], N, False, 1),
    ],
)
def test_structs_take_numbers_of_their_types(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        call()


def test_codes_have_the_names_of_files_and_recipes() -> None:
    assert _native.dtypes == {"BF16": 0, "F16": 1, "F32": 2}
    assert _native.elections == {"none": 0, "sum": 1, "count": 2}
    assert _native.norms == {"l1": 0, "l2": 1, "linf": 2}


def test_what_fits_is_taken() -> None:
    """The same calls with the right lengths, so that each refusal above is about its length."""
    assert _native.weighted_sum([an_input()] * 3, [1.0] * 3, out(), N, False, 1) == 0
    assert OUT.tolist() == [3.0] * N
    assert _native.gram([an_input()] * 3, [0.0] * 9, N, False, 1)[1][0] == N
    assert len(_native.delta_norms(an_input(), [a_vector()] * 2, 0, [0.0] * 4, N, 0, False, 1)) == 2
    assert compare(9, 8)[0] == 0
    assert kth([(0, 1), (0, 8), (1, 1)])[1] == [0, 0, 0]
    assert selection([(0, 1), (1, 1)], 2) == 0
    assert histogram([1, 2], 2 * BINS) == 0
    assert merge() == 0
    low_rank()
    low_rank(rank=0, a=0, b=0)


# --- the kernels on devices -------------------------------------------------------------------


def jobs(**changed: Any) -> Any:
    """Two jobs of three inputs, with one list changed."""
    address, count = X.data_ptr(), 3
    given: dict[str, Any] = {
        "count": count,
        "first": [address] * 2,
        "first_dtype": [F32] * 2,
        "out": [OUT.data_ptr()] * 2,
        "out_dtype": [F32] * 2,
        "n": [N] * 2,
        "offset": [0] * 2,
        "inputs": [address] * 6,
        "dtypes": [F32] * 6,
    } | changed
    return emulated.module().cuda.Jobs(*given.values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("first", 2), ("first_dtype", 2), ("out", 2), ("out_dtype", 2), ("offset", 2),
        ("inputs", 6), ("dtypes", 6),
    ],
)  # fmt: skip
def test_jobs_name_the_list(name: str, wanted: int) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' has 1 values; expected {wanted}"):
        jobs(**{name: [0]})


@pytest.mark.parametrize(("name", "values"), [("first_dtype", 2), ("out_dtype", 2), ("dtypes", 6)])
@pytest.mark.parametrize("code", [-1, 3, 77])
def test_jobs_have_known_dtypes(name: str, values: int, code: int) -> None:
    with pytest.raises(ValueError, match=rf"dtype is {code}; expected a number in \[0, 2\]"):
        jobs(**{name: [F32] * (values - 1) + [code]})


@pytest.mark.parametrize("at", range(6))
def test_masks_of_jobs(at: int) -> None:
    """Each of the six lists of masks must have a value per expert of every job."""
    lists: list[list[Any]] = [[0] * 6, [1] * 6, [False] * 6, [0] * 6, [0] * 6, [1.0] * 6]
    jobs().sparsify(*lists)
    lists[at] = lists[at][:5]
    with pytest.raises(ValueError, match=r"has [56] values; expected [06]"):
        jobs().sparsify(*lists)


def test_ranks_of_jobs() -> None:
    jobs().ask_ranks([1] * 6)
    with pytest.raises(ValueError, match="ranks has 5 values; expected 6"):
        jobs().ask_ranks([1] * 5)
    with pytest.raises(ValueError, match=r"k is 9; expected a number in \[1, 8\]"):
        jobs().ask_ranks([1] * 5 + [9])


def test_arrays_on_the_device() -> None:
    cuda, two = emulated.module().cuda, jobs()
    numbers, room = torch.ones(6), torch.zeros(1 << 12, dtype=torch.float64)

    def array(values: int) -> Array:
        return Array(room.data_ptr(), values)

    def floats(values: int) -> Array:
        return Array(numbers.data_ptr(), values)

    weights = floats(6)
    cuda.sums(two, weights, 0, 0)
    assert OUT.tolist() == [3.0] * N
    workspace = array(cuda.reduction_workspace(two, 3))
    cuda.inner_products(two, workspace, array(6), 0, 0)
    calls: dict[str, Callable[[], object]] = {
        "weights has 5 values; expected 6": lambda: cuda.sums(two, floats(5), 0, 0),
        "scales has 1 values; expected 2": lambda: cuda.merges(
            two, weights, floats(1), 0, False, 0, 0
        ),
        "totals has 5 values; expected 6": lambda: cuda.inner_products(
            two, workspace, array(5), 0, 0
        ),
        "totals has 6 values; expected 8": lambda: cuda.merge_gradients(
            two, weights, 0, False, array(cuda.reduction_workspace(two, 4)), array(6), 0, 0
        ),
        "totals has 6 values; expected 12": lambda: cuda.norms(
            two, 0, array(cuda.reduction_workspace(two, 6)), array(6), 0, 0
        ),
        "workspace has 1 values; expected": lambda: cuda.inner_products(
            two, array(1), array(6), 0, 0
        ),
        "number of jobs is 2; expected a number in": lambda: cuda.gram(
            two, array(1), array(9), 0, 0
        ),
        "ranks has 0 values; expected 6": lambda: cuda.ranks(two, array(1), array(6), 0, 0),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match="expected") as raised:
            call()
        assert message in str(raised.value)
