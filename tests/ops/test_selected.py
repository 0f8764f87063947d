"""Masks by rank in a row, and selection by variance: the compiled kernels give the bits of the
specification in torch, on every instruction set and for every number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mergesafe.errors import ArgumentError
from mergesafe.methods.contract import BrokenContractError, Scope
from mergesafe.methods.masks import RankMask, Sparsify
from mergesafe.methods.ranked import rank_mask
from mergesafe.methods.statistics import NO_SCORE, DeltaNorms
from mergesafe.native import extension
from mergesafe.ops.backends.registry import get_backend
from mergesafe.ops.backends.selected import rank_keep

SHAPES = [(5, 1), (4, 7), (3, 127), (2, 129), (3, 4095), (2, 4096), (2, 4097), (1, 70001)]
KINDS = ["gauss", "ties", "alike", "nonfinite", "zeros", "bf16", "mixed"]


@pytest.fixture(params=extension.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = extension.isa()
    extension.use_isa(request.param)
    yield request.param
    extension.use_isa(before)


def _tensors(kind: str, numel: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(numel)
    base = torch.randn(numel, generator=generator) * 0.02
    xs = [base + torch.randn(numel, generator=generator) * 0.001 for _ in range(3)]
    if kind == "ties":
        base = torch.zeros(numel)
        xs = [torch.randint(-3, 4, (numel,), generator=generator).float() for _ in xs]
    if kind == "alike":  # all magnitudes of a row in one bin, so that it is sorted
        base = torch.zeros(numel)
        xs = [1.0 + torch.rand(numel, generator=generator) * 1e-3 for _ in xs]
    if kind == "nonfinite":
        xs[0][0], xs[1][-1], xs[2][numel // 2] = float("inf"), float("nan"), -float("inf")
    if kind == "zeros":
        drawn = [torch.rand(numel, generator=generator) < 0.5 for _ in xs]
        xs = [torch.where(same, base, x) for same, x in zip(drawn, xs, strict=True)]
        base[0], xs[0][0], base[-1], xs[1][-1] = -0.0, 0.0, 0.0, 1e-45
    if kind == "bf16":
        return base.bfloat16(), [x.bfloat16() for x in xs]
    if kind == "mixed":
        return base.bfloat16(), [xs[0].half(), xs[1].bfloat16(), xs[2]]
    return base, xs


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_ranked_experts_are_those_of_the_specification(kind: str, isa: str) -> None:
    native, reference = get_backend("native"), get_backend("reference")
    for rows, columns in SHAPES:
        base, xs = _tensors(kind, rows * columns)
        chances = ((0.5, 0.15), (0.3, 0.2), (1.0, 0.1))
        masks = [rank_mask(d, e, columns, 99 + i) for i, (d, e) in enumerate(chances)]
        for offset in (0, 3 * columns):
            ours = native.ranked_experts(base, xs, masks, offset)
            theirs = reference.ranked_experts(base, xs, masks, offset)
            assert all(map(_same, ours, theirs)), (rows, columns, offset)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_specification(kind: str, isa: str) -> None:
    native, reference = get_backend("native"), get_backend("reference")
    for numel in (1, 7, 4095, 4097, 20000):
        base, xs = _tensors(kind, numel)
        for prefix in (None, 0x3000, 0x3500):
            counts, nonzero = native.score_histogram(base, xs, prefix)
            expected, count = reference.score_histogram(base, xs, prefix)
            assert torch.equal(counts, expected)
            assert nonzero == count
        for lo in (0, 0x36000000, NO_SCORE):
            sums = [torch.tensor(b.score_norms(base, xs, lo, [0.5, 1.0, 2.0])) for b in
                    (native, reference)]  # fmt: skip
            assert torch.equal(*(s.nan_to_num(nan=-1.0) for s in sums))
            for dtype in (torch.float32, torch.bfloat16):
                weights = [0.5, 0.3, 1e-7]
                ours = native.merge_selected(base, xs, lo, weights, dtype)
                assert _same(ours, reference.merge_selected(base, xs, lo, weights, dtype))


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_any_number_of_experts(count: int) -> None:
    native, reference = get_backend("native"), get_backend("reference")
    generator = torch.Generator().manual_seed(count)
    base = torch.randn(5000, generator=generator)
    xs = [base + torch.randn(5000, generator=generator) for _ in range(count)]
    weights = [1.0 / count] * count
    ours = native.merge_selected(base, xs, 0x3F800000, weights, torch.float32)
    assert _same(ours, reference.merge_selected(base, xs, 0x3F800000, weights, torch.float32))
    counts, nonzero = native.score_histogram(base, xs, None)
    expected, found = reference.score_histogram(base, xs, None)
    assert torch.equal(counts, expected)
    assert nonzero == found
    assert nonzero == (0 if count == 1 else 5000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_changes_are_counted_as_by_the_specification(kind: str, count: int, isa: str) -> None:
    native, reference = get_backend("native"), get_backend("reference")
    for numel in (1, 127, 1025, 4097, 20000):
        base, xs = _tensors(kind, numel)
        xs = [x.roll(i) for i, x in enumerate(xs * 3)][:count]
        for epsilon in (0.0, 1e-5, 1e-3, 1.0, float("inf")):
            totals = list(range(2 * count))
            ours = native.count_changes(base, xs, epsilon, totals)
            assert ours == reference.count_changes(base, xs, epsilon, totals)


def test_changes_counted_by_hand() -> None:
    base = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])
    one = torch.tensor([1.0, 0.5, 1.0, float("nan"), 0.25])
    two = torch.tensor([1.0, 0.25, 3.0, 1.0, -0.25])
    for name in ("native", "reference"):
        counts = get_backend(name).count_changes(base, [one, two], 0.25, [0, 0, 0, 0])
        assert counts == [2, 1, 1, 1]  # alone, with others


def test_equal_deltas_score_zero() -> None:
    """A mean that were rounded would make them vary."""
    base, x = torch.zeros(4096), torch.rand(4096)
    for count in (3, 5, 7):
        assert get_backend("native").score_histogram(base, [x] * count, None)[1] == 0


def test_threads_change_nothing() -> None:
    base, xs = _tensors("bf16", 300 * 1537)
    masks = [rank_mask(0.5, 0.15, 1537, i) for i in range(3)]
    native, before = get_backend("native"), torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        made = native.ranked_experts(base, xs, masks, 0)
        made.append(native.merge_selected(base, xs, 0x36000000, [0.3] * 3, torch.float32))
        made.append(native.score_histogram(base, xs, None)[0])
        found.append(made)
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(_same, found[0], other))


def test_keep_probability_grows_with_rank() -> None:
    """Binomial counts within five standard deviations, of the lowest and highest ranks."""
    rows, columns = 4000, 64
    x = torch.randn(rows * columns, generator=torch.Generator().manual_seed(3))
    mask = rank_mask(0.5, 0.3, columns, 7)
    keep = rank_keep(x, torch.zeros_like(x), mask, 0).view(rows, columns)
    ranks = x.abs().view(rows, columns).argsort(dim=1).argsort(dim=1)
    for rank, chance in ((0, 0.2), (31, 0.2 + 0.6 * 31 / 63), (63, 0.8)):
        share = float(keep[ranks == rank].float().mean())
        assert abs(share - chance) < 5 * (chance * (1 - chance) / rows) ** 0.5


def test_probabilities_that_fall_with_the_rank_are_refused() -> None:
    mask = RankMask(2.0**31, -1.0, 0, 4)
    with pytest.raises(BrokenContractError, match="negative step"):
        DeltaNorms("l1", (Sparsify(),), (mask,)).check(Scope(8, 1, True))


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.15), (0.1, 0.15), (0.85, 0.15)])
def test_probabilities_outside_0_and_1_are_refused(density: float, epsilon: float) -> None:
    with pytest.raises(ArgumentError, match="choose an epsilon below"):
        rank_mask(density, epsilon, 8, 0)
