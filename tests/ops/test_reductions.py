"""gram, delta_norms and magnitude_histogram: same bits everywhere, and close to the truth."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from mergesafe.methods.spec import Sparsify

from .helpers import (
    BF16,
    DTYPES,
    F32,
    ISAS,
    NATIVE,
    REFERENCE,
    SIZES,
    forced,
    merge_arguments,
    ordinary,
    patterns,
    same_floats,
)

NORMS = ("l1", "l2", "linf")


def _finite(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Random finite bit patterns, subnormals included."""
    x = patterns(n, dtype, seed)
    return torch.where(x.isfinite(), x, torch.zeros_like(x))


def _tensors(n: int, count: int, seed: int, finite: bool = True) -> list[torch.Tensor]:
    make = _finite if finite else patterns
    return [make(n, DTYPES[(seed + i) % 3], seed * 17 + i) for i in range(count)]


def _norm_arguments(n: int, seed: int, finite: bool = True) -> dict[str, Any]:
    tensors = _tensors(n, 4, seed, finite)
    arguments = merge_arguments(tensors[0], tensors[1:], ("window", "random", "none"), seed)
    return {
        "base": arguments["base"],
        "experts": arguments["experts"],
        "sparsify": arguments["vectors"],
    }


@pytest.mark.parametrize("n", SIZES)
def test_gram(n: int) -> None:
    for finite in (True, False):
        tensors = _tensors(n, 3, n, finite)
        totals = [0.5 * i for i in range(9)]
        expected = REFERENCE.gram(tensors, totals)
        for isa in ISAS:
            with forced(isa):
                assert same_floats(NATIVE.gram(tensors, totals), expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_delta_norms(n: int, norm: str) -> None:
    for finite in (True, False):
        arguments = _norm_arguments(n, n, finite)
        arguments |= {"norm": norm, "totals": [0.5 * i for i in range(6)], "offset": 4096 * 3}
        expected = REFERENCE.delta_norms(**arguments)
        for isa in ISAS:
            with forced(isa):
                assert same_floats(NATIVE.delta_norms(**arguments), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_reductions_do_not_depend_on_threads(norm: str, threads: int) -> None:
    n = 7 * 131072 + 5
    base, x = (ordinary(n, dtype, 1) for dtype in (F32, BF16))
    zeros = [0.0, 0.0, 0.0, 0.0]
    with forced(threads=threads):
        norms = NATIVE.delta_norms(base, [x], [Sparsify(0x3C000000)], norm, zeros[:2], 0)
        products = NATIVE.gram([base, x], zeros)
    expected = REFERENCE.delta_norms(base, [x], [Sparsify(0x3C000000)], norm, zeros[:2], 0)
    assert same_floats(norms, expected)
    assert same_floats(products, REFERENCE.gram([base, x], zeros))


@pytest.mark.parametrize("backend", [REFERENCE, NATIVE], ids=["reference", "native"])
def test_reductions_continue_over_pieces_of_whole_blocks(backend) -> None:
    n = 5 * 4096 + 77
    arguments = _norm_arguments(n, 3)
    tensors = [arguments["base"], *arguments["experts"]]
    cuts = [0, 4096, 3 * 4096, n]
    for norm in NORMS:
        whole = backend.delta_norms(**arguments, norm=norm, totals=[0.0] * 6, offset=0)
        totals = [0.0] * 6
        for start, end in itertools.pairwise(cuts):
            part = slice(start, end)
            totals = backend.delta_norms(
                tensors[0][part],
                [x[part] for x in tensors[1:]],
                arguments["sparsify"],
                norm,
                totals,
                start,
            )
        assert same_floats(totals, whole)
    totals = [0.0] * 16
    for start, end in itertools.pairwise(cuts):
        totals = backend.gram([x[start:end] for x in tensors], totals)
    assert same_floats(totals, backend.gram(tensors, [0.0] * 16))


@pytest.mark.parametrize("backend", [REFERENCE, NATIVE], ids=["reference", "native"])
@pytest.mark.parametrize("at", [0, 4095, 4096, 9000])
def test_a_nan_stays_in_the_largest_magnitude(backend, at: int) -> None:
    """Whatever the block it lies in, and whatever comes after."""
    base, x = torch.zeros(9001), ordinary(9001, F32, 1)
    x[at] = float("nan")
    for totals in ([0.0, 0.0], [5.0, 5.0]):
        found = backend.delta_norms(base, [x], [Sparsify()], "linf", totals, 0)
        assert all(math.isnan(value) for value in found)
        clean = backend.delta_norms(base, [base], [Sparsify()], "linf", found, 0)
        assert all(math.isnan(value) for value in clean)


def test_reductions_are_close_to_the_exact_sums() -> None:
    base, x = ordinary(20_000, F32, 1), ordinary(20_000, F32, 2)
    delta = (x - base).double().tolist()
    l1, l2, linf = (
        NATIVE.delta_norms(base, [x], [Sparsify()], norm, [0.0, 0.0], 0)[0] for norm in NORMS
    )
    # 20,000 additions of like sign, in blocks: a few units in the last place of float64
    assert l1 == pytest.approx(math.fsum(map(abs, delta)), rel=1e-14)
    assert l2 == pytest.approx(math.fsum(d * d for d in delta), rel=1e-14)
    assert linf == max(map(abs, delta))
    products = [a * b for a, b in zip(base.tolist(), x.tolist(), strict=True)]
    size = math.fsum(map(abs, products))
    assert abs(NATIVE.gram([base, x], [0.0] * 4)[1] - math.fsum(products)) <= 1e-14 * size


@pytest.mark.parametrize("n", [0, 1, 1025, 4097, 2 * 131072 + 3])
def test_histogram(n: int) -> None:
    tensors = _tensors(n, 3, n + 1, finite=False)
    base, experts = tensors[0], tensors[1:]
    high = REFERENCE.magnitude_histogram(base, experts, None)
    assert high.sum(1).tolist() == [n, n]
    prefixes = [int(row.argmax()) for row in high]
    low = REFERENCE.magnitude_histogram(base, experts, prefixes)
    assert low.sum(1).tolist() == [int(row.max()) for row in high]
    for isa in ISAS:
        with forced(isa, threads=2):
            assert torch.equal(NATIVE.magnitude_histogram(base, experts, None), high)
            assert torch.equal(NATIVE.magnitude_histogram(base, experts, prefixes), low)
