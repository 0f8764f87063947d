"""kth_magnitude: equal to a sort, also on data made against its sample and its buffers."""

from __future__ import annotations

import pytest
import torch

from mergesafe.ops.backends.elementary import magnitude_bits, random_words

from .helpers import (
    BF16,
    DTYPES,
    F16,
    F32,
    ISAS,
    NATIVE,
    REFERENCE,
    forced,
    generator,
    ordinary,
    patterns,
)

#: Above 65536 the sampled path; 7 threads need 7 * 131072.
SMALL, LARGE, SPLIT = 1 << 16, (1 << 17) + 3, 7 * 131072 + 3


def _sorted_bits(base: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return magnitude_bits(x.float() - base.float()).sort(descending=True).values


def _check(base: torch.Tensor, experts: list[torch.Tensor], ks: list[int], threads: int = 1):
    ranks = [(i, k) for i in range(len(experts)) for k in ks]
    ordered = [_sorted_bits(base, x) for x in experts]
    expected = [int(ordered[i][k - 1]) for i, k in ranks]
    for isa in ISAS:
        with forced(isa, threads):
            assert NATIVE.kth_magnitude(base, experts, ranks) == expected


def _ks(n: int) -> list[int]:
    wanted = [1, 2, n // 100, n // 5, n // 2, n * 4 // 5, n - 1, n]
    return sorted({k for k in wanted if 1 <= k <= n})


def _blocks(values: list[float], n: int) -> torch.Tensor:
    """The values in equal runs: what a tensor with structured rows looks like."""
    return torch.tensor(values).repeat_interleave(-(-n // len(values)))[:n]


def _heavy_tail(n: int) -> torch.Tensor:
    x = ordinary(n, F32, 7)
    return x * x * x


DATA = {
    "all equal": lambda n: torch.full((n,), 0.25),
    "all zero": torch.zeros,
    "two values": lambda n: torch.randint(0, 2, (n,), generator=generator(1)).float(),
    "one outlier": lambda n: torch.zeros(n).index_fill(0, torch.tensor([n - 1]), 3.0),
    "one small": lambda n: torch.ones(n).index_fill(0, torch.tensor([n // 2]), 0.5),
    "ties": lambda n: ordinary(n, F32, 2).mul(3).round(),
    "bf16 steps": lambda n: ordinary(n, BF16, 3).float() * 0.01,
    "ascending": lambda n: torch.arange(n).float(),
    "descending": lambda n: -torch.arange(n).flip(0).float(),
    "rows": lambda n: _blocks([0.0, 1.0, 0.5, 8.0, 0.25, 0.5, 2.0], n),
    "alternating": lambda n: torch.arange(n).remainder(3).float(),
    "clustered": lambda n: _blocks([1.0, 1e-20, 1e20], n) + ordinary(n, F32, 4) * 1e-3,
    "heavy tail": _heavy_tail,
    "nearly all nan": lambda n: torch.where(torch.arange(n) < n - 5, torch.nan, 1.0),
    "few nan": lambda n: torch.where(torch.arange(n) % 1000 == 7, torch.nan, ordinary(n, F32, 5)),
    "infinities": lambda n: torch.where(torch.arange(n) % 3 == 0, torch.inf, ordinary(n, F32, 6)),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("n", [1, 2, 1000, SMALL, SMALL + 1, LARGE])
def test_equals_a_sort(name: str, n: int) -> None:
    _check(torch.zeros(n), [DATA[name](n)], _ks(n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [33, SMALL, LARGE])
def test_random_bit_patterns(dtype: torch.dtype, n: int) -> None:
    experts = [patterns(n, dtype, 2), patterns(n, F16, 3)]
    _check(patterns(n, BF16, 1), experts, _ks(n))


@pytest.mark.parametrize("n", [1000, LARGE])
def test_every_rank_around_the_ties(n: int) -> None:
    """k just before, at and just after each place where the sorted values change."""
    x = ordinary(n, F32, 9).mul(2).round()
    ordered = _sorted_bits(torch.zeros(n), x)
    edges = (ordered[1:] != ordered[:-1]).nonzero().flatten() + 1
    ks = {int(edge) + step for edge in edges for step in (-1, 0, 1)}
    _check(torch.zeros(n), [x], sorted(k for k in ks if 1 <= k <= n))


@pytest.mark.parametrize("threads", [2, 7])
def test_threads(threads: int) -> None:
    base = ordinary(SPLIT, BF16, 1)
    experts = [base + ordinary(SPLIT, BF16, seed) * 0.01 for seed in (2, 3, 4)]
    _check(base, experts, _ks(SPLIT), threads)


def test_sorted_data_overflows_the_buffer_of_a_thread() -> None:
    """All members of the bracket lie in the share of one of seven threads: the median's bracket
    holds 8 % of the elements of 8192 samples, and a thread has room for 1 / 8 of a seventh. The
    histogram must decide.
    """
    x = torch.arange(SPLIT).float()
    _check(torch.zeros(SPLIT), [x, x.flip(0)], [SPLIT // 2, SPLIT // 3], threads=7)


@pytest.mark.parametrize("n", [LARGE, 1 << 20])
def test_a_sample_that_sees_nothing_of_the_answer(n: int) -> None:
    """Zeros exactly where csrc/cpu/kth.cpp samples, values elsewhere: every bracket is [0, 0] and
    misses, so the histogram must decide.
    """
    run, runs = 32, min(max(n // 256, 8192), 32768) // 32
    stride = n // runs
    # run r starts at word r of ... counter r, word 0, which elements with e % 64 < 16 take
    counters = torch.arange(runs)
    elements = 64 * (counters // 16) + counters % 16
    words = random_words(0, int(elements[-1]) + 1, 0, torch.device("cpu"))[elements]
    starts = counters * stride + words % (stride - run)
    seen = (starts.unsqueeze(1) + torch.arange(run)).flatten()
    x = ordinary(n, F32, 1).abs().add(1.0)
    x[seen] = 0.0
    _check(torch.zeros(n), [x], [1, n // 10, n // 2, n - len(seen), n - len(seen) + 1])


@pytest.mark.parametrize("n", [1000, LARGE])
def test_agrees_with_the_histogram(n: int) -> None:
    """Two levels of 16 and 15 bits, as a tensor that is streamed in chunks is selected from."""
    base, x = ordinary(n, BF16, 1), ordinary(n, BF16, 2)
    for k in _ks(n):
        high, rest = _from_top(NATIVE.magnitude_histogram(base, [x], None)[0], k)
        low, _ = _from_top(NATIVE.magnitude_histogram(base, [x], [high])[0], rest)
        assert NATIVE.kth_magnitude(base, [x], [(0, k)]) == [high << 15 | low]
        assert REFERENCE.kth_magnitude(base, [x], [(0, k)]) == [high << 15 | low]


def _from_top(counts: torch.Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th largest and its rank within that bin."""
    at_least = counts.flip(0).cumsum(0)
    place = int((at_least >= k).nonzero()[0])
    return len(counts) - 1 - place, k - int(at_least[place] - counts.flip(0)[place])


def test_ranks_in_any_order_and_twice() -> None:
    base = torch.zeros(LARGE)
    experts = [ordinary(LARGE, F32, 1), ordinary(LARGE, F32, 2)]
    ranks = [(1, 5), (0, 7), (1, 5), (0, LARGE), (1, 1)]
    assert NATIVE.kth_magnitude(base, experts, ranks) == REFERENCE.kth_magnitude(
        base, experts, ranks
    )
