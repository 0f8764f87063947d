"""Compiled tile functions: the bits of the functions in torch that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mergesafe.methods.combinations import COMPILED, COMPILED_SCORES
from mergesafe.methods.definitions import arcee_fusion, pcb
from mergesafe.methods.spec import TensorContext, TileFunction, Unit
from mergesafe.native import DTYPES as CODES
from mergesafe.native import Array, Output, extension
from mergesafe.ops.backends.native import input_of
from mergesafe.ops.tiles import apply

from .helpers import DTYPES, F32, ISAS, assert_same_bits, forced

NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
IMPORTANCE = TileFunction(arcee_fusion.importance, unit=Unit.ROW, compiled="arcee_importance")
#: Stands for the inputs among the arguments of a score.
INPUTS = -1
SHAPES = [(9, 1), (9, 2), (7, 3), (5, 16), (3, 63), (8, 257), (2, 4097), (4, 1000)]


def score(number: int) -> TileFunction:
    """Bounds are float32 numbers, as statistics are."""
    settings = (float(number), 0.0078125, 0.25)
    return TileFunction(pcb.score, settings, compiled="pcb_score")


def functions(count: int) -> list[TileFunction]:
    """Those that take so many inputs."""
    numbers = (1.2, *((0.0078125, 0.25, 0.001, 0.2, 0.7) * count))
    scores = tuple(score(i) for i in range(count))
    found = [
        *scores,
        TileFunction(pcb.score, (0.0, 0.125, 0.125), compiled="pcb_score"),
        TileFunction(pcb.balanced, numbers, compiled="pcb_balanced", scores=scores),
        TileFunction(
            pcb.balanced, (0.5, *((0.125, 0.125, 0.25, 0.25, -1.0) * count)),
            compiled="pcb_balanced", scores=scores,
        ),
    ]  # fmt: skip
    if count == 1:
        found += [
            IMPORTANCE,
            TileFunction(
                arcee_fusion.fused, (0.001,), unit=Unit.ROW, compiled="arcee_fused",
                scores=(IMPORTANCE,),
            ),
        ]  # fmt: skip
    return found


def compiled(
    how: TileFunction,
    tensors: Sequence[torch.Tensor],
    scores: Sequence[torch.Tensor],
    dtype: torch.dtype,
    threads: int = 1,
) -> tuple[torch.Tensor, int]:
    if how.compiled in COMPILED_SCORES:
        [out], flags = scored([how], tensors, threads=threads)
        return out.to(dtype), flags
    base, *experts = tensors
    out = torch.empty(base.shape, dtype=dtype)
    assert how.compiled is not None
    flags = extension.tile_function(
        how.compiled, input_of(base), [input_of(x) for x in experts],
        [Array(x.data_ptr(), x.numel()) for x in scores], list(how.settings or ()),
        Output(out.data_ptr(), CODES[NAMES[dtype]]), base.numel(), False, threads,
    )  # fmt: skip
    return out, flags


def scored(
    hows: Sequence[TileFunction],
    tensors: Sequence[torch.Tensor],
    floors: Sequence[float] | None = None,
    rows: torch.Tensor | None = None,
    known: bool = False,
    threads: int = 1,
) -> tuple[list[torch.Tensor], int]:
    base, *experts = tensors
    outs = [torch.empty(base.shape, dtype=torch.float32) for _ in hows]
    name = hows[0].compiled
    assert name is not None
    wanted = extension.TileScores(
        name, base.shape[-1], [list(how.settings or ()) for how in hows],
        list(floors or [0.0] * len(hows)), None if rows is None else array_of(rows), known,
    )  # fmt: skip
    flags = extension.tile_scores(
        wanted, input_of(base), [input_of(x) for x in experts], [array_of(x) for x in outs],
        base.numel(), False, threads,
    )  # fmt: skip
    return outs, flags


def array_of(values: torch.Tensor) -> Array:
    return Array(values.data_ptr(), values.numel())


def expected(
    how: TileFunction, tensors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The result in float32, and the scores."""
    base, *experts = tensors
    context = TensorContext("w", tuple(base.shape), base.numel(), len(experts), base=True)
    operands = [x.float().reshape(-1) for x in tensors]
    scores = [apply(each, context, operands) for each in how.scores]
    return apply(how, context, operands, 0, scores).view(base.shape), scores


def family(shape: tuple[int, int], count: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Of all sizes; some task vectors are 0, and some numbers far from others in their row."""
    generator = torch.Generator().manual_seed(shape[1] + count)
    base = torch.randn(shape, generator=generator)
    base[-1] *= 30
    found = [base]
    for i in range(count):
        delta = torch.randn(shape, generator=generator) * 0.1
        delta[0] = 0
        delta[-1, : shape[1] // 2] *= 10.0 ** (i - 3)
        found.append(base + delta)
    return [x.to(dtype) for x in found]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3, 6])
def test_bits(shape: tuple[int, int], count: int) -> None:
    for at, dtype in enumerate(DTYPES):
        tensors = family(shape, count, dtype)
        for how in functions(count):
            wanted, scores = expected(how, tensors)
            for isa in ISAS:
                with forced(isa):
                    found, flags = compiled(how, tensors, scores, DTYPES[at - 1])
                assert_same_bits(found, wanted.to(DTYPES[at - 1]))
                assert flags == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_from_a_floor_on_are_exact(shape: tuple[int, int], isa: str) -> None:
    """And all others are below it; that of so many scores is as it would be alone."""
    tensors = family(shape, 3, torch.float32)
    tensors[1][0, 0] = torch.nan
    hows = [*(score(i) for i in range(3)),
            TileFunction(pcb.score, (1.0, 0.125, 0.125), compiled="pcb_score")]  # fmt: skip
    wanted = [expected(how, tensors)[0] for how in hows]
    for floor in (0.0, 1e-38, 1e-6, 0.003, 0.3, 2.0):
        with forced(isa):
            found, _ = scored(hows, tensors, [floor, floor / 2, 0.0, floor])
        for values, exact, least in zip(found, wanted, (floor, floor / 2, 0.0, floor), strict=True):
            below = exact < least
            assert_same_bits(values[~below], exact[~below])
            assert bool(((values[below] >= 0) & (values[below] < least)).all())


@pytest.mark.parametrize("isa", ISAS)
def test_what_rows_have_in_common_is_kept(isa: str) -> None:
    tensors = family((5, 300), 1, torch.bfloat16)
    rows = torch.full((5,), torch.nan)
    with forced(isa):
        [first], _ = scored([IMPORTANCE], tensors, rows=rows)
        assert_same_bits(scored([IMPORTANCE], tensors, rows=rows, known=True)[0][0], first)
        rows.mul_(2)
        assert_same_bits(scored([IMPORTANCE], tensors, rows=rows, known=True)[0][0], first * 2)
    assert_same_bits(first, expected(IMPORTANCE, tensors)[0])


@pytest.mark.parametrize("isa", ISAS)
def test_rows_near_each_other_and_near_the_base(isa: str) -> None:
    """Rows whose values or changes are small have kernels of their own: about their limits."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.tensor([0.0, 0.33, 0.34, 0.3401, 0.36, 3.0]).repeat_interleave(4)
    moved = torch.tensor([0.0, 0.0999, 0.1001, 0.3]).repeat(6)
    row = torch.rand((24, 333), generator=generator) - 0.5
    row[:, 0], row[:, 1] = -0.5, 0.5  # the ends
    base = row * spread[:, None]
    sign = torch.randint(0, 2, row.shape, generator=generator) * 2 - 1
    x = base + sign * moved[:, None]
    wanted, _ = expected(IMPORTANCE, [base, x])
    with forced(isa):
        [found], flags = scored([IMPORTANCE], [base, x])
    assert_same_bits(found, wanted)
    assert flags == 0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(3, 5), (700, 400), (2, 9000), (1, 300_000)])
def test_scores_in_passing(shape: tuple[int, int], threads: int) -> None:
    """A function that takes scores as they are found has the bits of one that is given them."""
    for count in (1, 3):
        tensors = family(shape, count, torch.bfloat16)
        base, *experts = tensors
        for how in functions(count):
            if not how.scores:
                continue
            scores, flags = scored(how.scores, tensors)
            wanted, _ = compiled(how, tensors, scores, F32)
            found = torch.full_like(wanted, torch.nan)
            name, settings = how.scores[0].compiled, [list(x.settings or ()) for x in how.scores]
            assert name is not None
            assert how.compiled is not None
            made = extension.TileScores(name, shape[1], settings, [0.0] * len(settings))
            assert flags == extension.scored_tile(
                how.compiled, made, input_of(base), [input_of(x) for x in experts],
                list(how.settings or ()), Output(found.data_ptr(), CODES["F32"]), found.numel(),
                False, threads,
            )  # fmt: skip
            assert_same_bits(found, wanted)
            ranks = [(i, k) for i in range(len(scores)) for k in (1, found.numel() // 3 + 1)]
            size = len(ranks) * threads * (found.numel() + 200)  # for all scores of every rank
            memory = torch.empty(size, dtype=torch.int32)
            chosen = extension.Selection(
                found.numel(), ranks, 0, memory.data_ptr(), size, False, threads
            )
            half = shape[0] // 2
            for rows in (slice(0, half), slice(half, None)):
                part = [x[rows] for x in tensors]
                given = [input_of(x) for x in part]
                chosen.add_scored(made, given[0], given[1:], part[0].numel())
            bits, missed = chosen.finish()
            assert missed == []
            for (i, k), each in zip(ranks, bits, strict=True):
                exact = scores[i].abs().flatten().sort(descending=True).values[k - 1]
                assert each == exact.view(torch.int32).item()


@pytest.mark.parametrize("threads", [2, 7])
def test_threads(threads: int) -> None:
    tensors = family((400, 1000), 1, torch.bfloat16)
    for how in functions(1):
        _, scores = expected(how, tensors)
        found, _ = compiled(how, tensors, scores, F32, threads)
        assert_same_bits(found, compiled(how, tensors, scores, F32)[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity(value: float) -> None:
    """Flagged by input; what comes out is NaN in both, or the same number."""
    tensors = family((4, 70), 1, torch.float32)
    tensors[1][2, 3] = value
    for how in functions(1):
        wanted, scores = expected(how, tensors)
        found, flags = compiled(how, tensors, scores, F32)
        assert flags & 3 == 2
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.nan_to_num(0), wanted.nan_to_num(0))


def test_the_bin_of_a_rank() -> None:
    counts = torch.zeros(extension.histogram_bins, dtype=torch.int64)
    counts[7], counts[70], counts[65_535] = 4, 3, 2
    array = Array(counts.data_ptr(), len(counts))
    found = [extension.bin_of_rank(array, k) for k in range(1, 10)]
    assert found == [*((65_535, k) for k in (1, 2)), *((70, k) for k in (1, 2, 3)),
                     *((7, k) for k in (1, 2, 3, 4))]  # fmt: skip
    with pytest.raises(ValueError, match="fewer elements"):
        extension.bin_of_rank(array, 10)
    with pytest.raises(ValueError, match="k is 0"):
        extension.bin_of_rank(array, 0)


def test_both_tables_have_the_same_names() -> None:
    assert {"stock_rows", *extension.tile_functions} == COMPILED
    assert extension.tile_score_functions == list(COMPILED_SCORES)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({0: "pcb"}, "no compiled tile function 'pcb'; expected one of arcee_fused"),
        ({2: 2}, "inputs has 2 values; expected 1"),
        ({3: []}, "scores has 0 values; expected 1"),
        ({4: []}, "settings has 0 values; expected 1"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[int, Any], told: str) -> None:
    x = torch.zeros(12)
    given: list[Any] = [
        "arcee_fused", input_of(x), [input_of(x)], [array_of(x)], [0.5],
        Output(x.data_ptr(), CODES["F32"]), 12, False, 1,
    ]  # fmt: skip
    for at, value in change.items():
        given[at] = [input_of(x)] * value if at == 2 else value
    with pytest.raises(ValueError, match=told):
        extension.tile_function(*given)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({0: "pcb"}, "no compiled score 'pcb'; expected one of arcee_importance"),
        ({INPUTS: 2}, "inputs has 2 values; expected 1"),
        ({1: 5}, "n is 12; expected whole rows of 5"),
        ({3: []}, "settings has 1 values; expected 0"),
        ({4: 2}, "rows has 2 values; expected 3"),
        ({5: True}, "no numbers of rows are known"),
        ({0: "pcb_score"}, "settings has 0 values; expected 3"),
        ({0: "pcb_score", 2: [[1.0, 0.0, 1.0]]}, r"settings\[0\] is 1.0\d*; expected the number"),
        ({0: "pcb_score", 2: [[0.0, 0.0, 1.0]], 4: 3}, "the score has no numbers of rows"),
    ],
)
def test_arguments_of_scores_that_do_not_fit(change: dict[int, Any], told: str) -> None:
    x = torch.zeros(12)
    given: list[Any] = ["arcee_importance", 4, [[]], [0.0], None, False]
    inputs, outs = [input_of(x)], [array_of(x)]
    for at, value in change.items():
        if at == INPUTS:
            inputs = inputs * value
        else:
            given[at] = array_of(x[:value]) if at == 4 else value

    def call() -> None:
        wanted = extension.TileScores(*given)
        extension.tile_scores(wanted, input_of(x), inputs, outs, 12, False, 1)

    with pytest.raises(ValueError, match=told):
        call()
