"""weighted_sum and merge_task_vectors: the kernels give the reference's bits."""

from __future__ import annotations

import itertools

import pytest
import torch

from mergesafe.methods.spec import Sparsify
from mergesafe.native import Output, extension
from mergesafe.ops.backends.native import input_of

from .helpers import (
    BF16,
    DTYPES,
    F16,
    F32,
    ISAS,
    NATIVE,
    REFERENCE,
    SIZES,
    assert_same_bits,
    forced,
    merge_arguments,
    ordinary,
    patterns,
)

KINDS = ("none", "magnitude", "window", "random", "empty")
ELECT = ("none", "sum", "count")
#: More than two threads' least share, so that work is really split, and no whole block at the end.
LARGE = 2 * 131072 + 4096 + 3


def _inputs(n: int, count: int, seed: int, dtypes: tuple[torch.dtype, ...] = DTYPES):
    return [patterns(n, dtypes[(seed + i) % len(dtypes)], seed * 31 + i) for i in range(count)]


def _check_merge(seed: int, n: int, experts: int, dtypes, kinds, elect, normalize, **options):
    tensors = _inputs(n, experts + 1, seed, dtypes)
    arguments = merge_arguments(tensors[0], tensors[1:], kinds, seed) | {
        "elect": elect,
        "normalize": normalize,
        "scale": (1.0, 0.3, -2.0)[seed % 3],
        "offset": (0, 1, 63, 2**40 + 17)[seed % 4],
        "out_dtype": DTYPES[seed % 3],
    }
    expected = REFERENCE.merge_task_vectors(**arguments)
    for isa in ISAS:
        with forced(isa, **options):
            assert_same_bits(NATIVE.merge_task_vectors(**arguments), expected)


@pytest.mark.parametrize("n", SIZES)
def test_merge_at_every_size(n: int) -> None:
    for seed, elect in enumerate(ELECT):
        _check_merge(seed + n, n, 1 + (seed + n) % 4, DTYPES, KINDS, elect, bool(seed % 2))


@pytest.mark.parametrize("experts", [1, 2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize("dtypes", [(BF16,), (F16,), (F32,), (BF16, F16, F32), (F32, BF16)])
def test_merge_with_every_option(experts: int, dtypes: tuple[torch.dtype, ...]) -> None:
    masks = [(kind,) for kind in KINDS] + [KINDS, ("random", "window")]
    options = itertools.product(masks, ELECT, (False, True))
    for seed, (kinds, elect, normalize) in enumerate(options):
        _check_merge(seed, 1025 + seed, experts, dtypes, kinds, elect, normalize)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("kinds", [("magnitude",), ("random",), KINDS])
def test_merge_over_threads(threads: int, kinds: tuple[str, ...]) -> None:
    n = LARGE if threads < 7 else 7 * 131072 + 5
    _check_merge(threads, n, 2, (BF16, F32), kinds, "sum", True, threads=threads)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize("out_dtype", DTYPES)
def test_weighted_sum(count: int, out_dtype: torch.dtype) -> None:
    for n in (*SIZES[:15], 65537):
        tensors = _inputs(n, count, n + count)
        weights = [(0.3, -1.0, 1e-40, 3e38, 0.0, 1.0)[(n + i) % 6] for i in range(count)]
        expected = REFERENCE.weighted_sum(tensors, weights, out_dtype)
        for isa in ISAS:
            with forced(isa):
                assert_same_bits(NATIVE.weighted_sum(tensors, weights, out_dtype), expected)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_weighted_sum_over_threads(threads: int) -> None:
    tensors = _inputs(7 * 131072 + 5, 3, threads)
    expected = REFERENCE.weighted_sum(tensors, [0.3, 0.3, 0.4], BF16)
    with forced(threads=threads):
        assert_same_bits(NATIVE.weighted_sum(tensors, [0.3, 0.3, 0.4], BF16), expected)


def test_misaligned_inputs() -> None:
    """Addresses that are multiples of the element's size only."""
    n = 4099
    for shift in (1, 3, 7):
        tensors = [patterns(n + shift, DTYPES[i], shift + i)[shift:] for i in range(3)]
        arguments = merge_arguments(tensors[0], tensors[1:], ("window",), shift)
        arguments |= {"elect": "sum", "normalize": True, "scale": 0.5, "offset": shift}
        expected = REFERENCE.merge_task_vectors(**arguments, out_dtype=BF16)
        total = REFERENCE.weighted_sum(tensors, [0.1, 0.2, 0.3], F16)
        for isa in ISAS:
            with forced(isa):
                actual = NATIVE.merge_task_vectors(**arguments, out_dtype=BF16)
                assert_same_bits(actual, expected)
                assert_same_bits(NATIVE.weighted_sum(tensors, [0.1, 0.2, 0.3], F16), total)


@pytest.mark.parametrize("backend", [REFERENCE, NATIVE], ids=["reference", "native"])
def test_pieces_equal_the_whole(backend) -> None:
    """Any cut, also at odd places, gives the same bits, random masks included."""
    n = 10_000
    tensors = _inputs(n, 4, 5)
    arguments = merge_arguments(tensors[0], tensors[1:], ("random", "window"), 5)
    arguments |= {"elect": "count", "normalize": True, "scale": 1.0, "out_dtype": F16}
    whole = backend.merge_task_vectors(**arguments, offset=1000)
    pieces = []
    for start, end in itertools.pairwise([0, 1, 63, 64, 66, 1087, 4096, 9999, n]):
        part = slice(start, end)
        arguments |= {"base": tensors[0][part], "experts": [x[part] for x in tensors[1:]]}
        pieces.append(backend.merge_task_vectors(**arguments, offset=1000 + start))
    assert_same_bits(torch.cat(pieces), whole)


@pytest.mark.parametrize("n", [1, 65, 1027])
def test_nothing_is_written_past_the_end(n: int) -> None:
    for dtype in DTYPES:
        x = ordinary(n, dtype, n)
        around = torch.full((n + 64,), 7.0, dtype=dtype)
        out = Output(around[32:].data_ptr(), DTYPES.index(dtype))
        for isa in ISAS:
            with forced(isa):
                extension.weighted_sum([input_of(x)], [1.0], out, n, False, 1)
            assert_same_bits(around[32 : 32 + n], x)
            assert (around[:32] == 7.0).all()
            assert (around[32 + n :] == 7.0).all()


def test_overflowing_coefficients_become_infinite_alike() -> None:
    tensors = _inputs(257, 3, 1)
    arguments = {
        "base": tensors[0],
        "experts": tensors[1:],
        "vectors": [Sparsify(rescale=1e300), Sparsify(random=True, threshold=1 << 31)],
        "weights": [1e300, -1e300],
        "elect": "none",
        "normalize": True,
        "scale": 1e-300,
        "offset": 0,
        "out_dtype": F32,
    }
    expected = REFERENCE.merge_task_vectors(**arguments)
    assert_same_bits(NATIVE.merge_task_vectors(**arguments), expected)
