"""Products of task vectors, alone and beside every sign: the bits of gram over deltas."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
import torch

from mergesafe import _native
from mergesafe.ops.backends.native import input_of

from .helpers import BF16, DTYPES, F32, ISAS, REFERENCE, SIZES, forced, patterns, same_floats


def compare(
    base: torch.Tensor,
    experts: Sequence[torch.Tensor],
    with_base: bool,
    totals: Sequence[float],
    counts: Sequence[int],
    threads: int = 1,
) -> tuple[int, list[float], list[int]]:
    inputs = [input_of(x) for x in experts]
    return _native.compare(
        input_of(base), inputs, with_base, list(totals), list(counts), base.numel(), False, threads
    )


def delta_gram(
    base: torch.Tensor, experts: Sequence[torch.Tensor], totals: Sequence[float], threads: int = 1
) -> tuple[int, list[float]]:
    inputs = [input_of(x) for x in experts]
    return _native.delta_gram(input_of(base), inputs, list(totals), base.numel(), False, threads)


def expected(
    base: torch.Tensor, experts: Sequence[torch.Tensor], with_base: bool, totals: Sequence[float]
) -> tuple[int, list[float], list[int]]:
    """By the reference's gram over float32 differences, and by signs of single elements."""
    n = len(experts)
    deltas = [x.float() - base.float() for x in experts]
    products = REFERENCE.gram([*([base.float()] if with_base else []), *deltas], totals)
    counts = [0] * (2 * n * n)
    for i, j in combinations(range(n), 2):
        # torch.sign of NaN is 0
        signs = [torch.sign(deltas[k]) for k in (i, j)]
        both = (signs[0] != 0) & (signs[1] != 0)
        counts[2 * (i * n + j)] = int(both.sum())
        counts[2 * (i * n + j) + 1] = int((both & (signs[0] != signs[1])).sum())
    flags = sum(1 << i for i, x in enumerate((base, *experts)) if not x.float().isfinite().all())
    return flags, products, counts


def upper(values: Sequence[float], width: int) -> list[float]:
    return [values[i * width + j] for i in range(width) for j in range(i, width)]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("count", [1, 3, 6])
def test_bits_and_counts(n: int, count: int) -> None:
    base, *experts = (patterns(n, DTYPES[(n + i) % 3], 31 * n + i) for i in range(count + 1))
    for with_base in (False, True):
        width = count + with_base
        totals = [0.25 * i for i in range(width * width)]
        flags, products, counts = expected(base, experts, with_base, totals)
        for isa in ISAS:
            with forced(isa):
                found = compare(base, experts, with_base, totals, [0] * (2 * count * count))
            assert found[0] == flags
            assert same_floats(upper(found[1], width), upper(products, width))
            assert found[2] == counts


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("alike", [True, False])
def test_bits_of_products_alone(n: int, count: int, alike: bool) -> None:
    dtypes = [BF16 if alike else DTYPES[(n + i) % 3] for i in range(count + 1)]
    base, *experts = (patterns(n, dtype, 31 * n + i) for i, dtype in enumerate(dtypes))
    for finite in (False, True):
        if finite:  # of any patterns nearly every sum is NaN
            base, *experts = (x.nan_to_num(0.5, 2.0, -2.0).clamp(-9, 9) for x in (base, *experts))
        totals = [0.25 * i for i in range(count * count)]
        flags, products, _ = expected(base, experts, False, totals)
        for isa in ISAS:
            with forced(isa):
                found = delta_gram(base, experts, totals)
            assert found[0] == flags
            assert same_floats(upper(found[1], count), upper(products, count))


@pytest.mark.parametrize("threads", [2, 7])
@pytest.mark.parametrize("count", [3, 6])
def test_products_alone_are_cut_anywhere_between_blocks(threads: int, count: int) -> None:
    n, cut = 3 * 131072 + 5, 5 * 4096
    base, *experts = (patterns(n, BF16, i).nan_to_num(0.5).clamp(-9, 9) for i in range(count + 1))
    zeros = [0.0] * count**2
    whole = delta_gram(base, experts, zeros)
    assert same_floats(delta_gram(base, experts, zeros, threads)[1], whole[1])
    first = delta_gram(base[:cut], [x[:cut] for x in experts], zeros)
    rest = delta_gram(base[cut:], [x[cut:] for x in experts], first[1])
    assert same_floats(rest[1], whole[1])


@pytest.mark.parametrize("threads", [2, 7])
def test_neither_threads_nor_cuts_matter(threads: int) -> None:
    n, cut = 3 * 131072 + 5, 5 * 4096
    base, one, two = (patterns(n, dtype, seed) for seed, dtype in enumerate((BF16, F32, BF16)))
    whole = compare(base, [one, two], True, [0.0] * 9, [0] * 8)
    assert compare(base, [one, two], True, [0.0] * 9, [0] * 8, threads)[2] == whole[2]
    spread = compare(base, [one, two], True, [0.0] * 9, [0] * 8, threads)
    assert same_floats(spread[1], whole[1])
    first = compare(base[:cut], [one[:cut], two[:cut]], True, [0.0] * 9, [0] * 8)
    rest = compare(base[cut:], [one[cut:], two[cut:]], True, *first[1:])
    assert same_floats(rest[1], whole[1])
    assert rest[2] == whole[2]


def test_totals_that_do_not_fit() -> None:
    x = torch.zeros(4)
    with pytest.raises(ValueError, match="totals has 4 values; expected 9"):
        compare(x, [x, x], True, [0.0] * 4, [0] * 8)
    with pytest.raises(ValueError, match="totals has 9 values; expected 4"):
        delta_gram(x, [x, x], [0.0] * 9)
