"""Selection over pieces: the bits of the selection in memory, for any pieces, or a named miss."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch

from mergesafe import _native
from mergesafe.engine.plan.tiling import SAMPLE_RUN, sample_positions
from mergesafe.ops.backends.native import NativeBackend, input_of

NUMEL = 300_001


@pytest.fixture(params=_native.available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _native.isa()
    _native.use_isa(request.param)
    yield
    _native.use_isa(before)


def select(
    base: torch.Tensor,
    experts: list[torch.Tensor],
    ranks: list[tuple[int, int]],
    piece: int,
    *,
    values: int = 1 << 18,
    threads: int = 1,
) -> tuple[list[int], list[int]]:
    """Answers and misses, in pieces of ``piece`` elements."""
    n = base.numel()
    positions = sample_positions(n)
    storage = (ctypes.c_uint32 * (values * len(ranks)))()
    selection = _native.Selection(
        n, ranks, len(positions) * SAMPLE_RUN, ctypes.addressof(storage), len(storage), False,
        threads,
    )  # fmt: skip

    def part(x: torch.Tensor, begin: int, count: int) -> _native.Input:
        return input_of(x[begin : begin + count])

    for begin in positions:
        run = [part(x, begin, SAMPLE_RUN) for x in (base, *experts)]
        selection.sample(run[0], run[1:], SAMPLE_RUN)
    for begin in range(0, n, piece):
        count = min(piece, n - begin)
        inputs = [part(x, begin, count) for x in (base, *experts)]
        selection.add(inputs[0], inputs[1:], count)
    return selection.finish()


def data(kind: str, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def random() -> torch.Tensor:
        return torch.randn(NUMEL, generator=generator)

    base = random() * 0.02
    experts = [base + random() * 0.001 for _ in range(2)]
    if kind == "rows of other scales":
        scales = torch.exp(2 * random()[: NUMEL // 3000 + 1]).repeat_interleave(3000)[:NUMEL]
        experts = [base + (x - base) * scales for x in experts]
    if kind == "equal":
        experts = [base + 0.5, base.clone()]
    if kind == "mostly zero":
        experts = [torch.where(random() > 2, x, base) for x in experts]
    if kind == "not finite":
        experts[0][::7], experts[1][::5] = float("nan"), float("inf")
    return base.to(dtype), [x.to(dtype) for x in experts]


RANKS = [(0, 1), (0, NUMEL // 5), (0, NUMEL), (1, NUMEL // 2), (1, NUMEL - 7)]
KINDS = ["random", "rows of other scales", "equal", "mostly zero", "not finite"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("piece", "threads"), [(4096, 1), (12 * 4096, 2), (NUMEL, 1)])
def test_answers_are_those_of_the_selection_in_memory(
    kind: str, dtype: torch.dtype, piece: int, threads: int
) -> None:
    base, experts = data(kind, dtype)
    answers, missed = select(base, experts, RANKS, piece, threads=threads)
    expected = NativeBackend().kth_magnitude(base, experts, RANKS)
    assert missed == []
    assert answers == expected


def test_too_little_storage_is_a_miss_and_no_wrong_answer() -> None:
    """float32 differences hardly tie, so a bracket has members to collect."""
    base, experts = data("random", torch.float32)
    base, experts = base.repeat(80), [x.repeat(80) for x in experts]
    ranks = [(0, 1), (0, 40 * NUMEL)]
    sample = len(sample_positions(80 * NUMEL)) * SAMPLE_RUN
    values = 2 * sample + 2 * _native.selection_slack
    answers, missed = select(base, experts, ranks, 1 << 20, values=values)
    assert missed == [1]
    assert answers[0] == NativeBackend().kth_magnitude(base, experts, ranks)[0]


def test_storage_smaller_than_the_sample_is_refused() -> None:
    base, experts = data("random", torch.bfloat16)
    with pytest.raises(ValueError, match="too small for its sample"):
        select(base, experts, RANKS, 4096, values=1000)


def test_samples_lie_within_the_tensor_and_apart() -> None:
    for numel in (8192, 8193, 70_001, 1 << 20, 235_000_003):
        positions = sample_positions(numel)
        ends = [begin + SAMPLE_RUN for begin in positions]
        assert positions
        assert all(end <= begin for end, begin in zip(ends, positions[1:], strict=False))
        assert positions[0] >= 0
        assert ends[-1] <= numel
    assert sample_positions(8191) == []
