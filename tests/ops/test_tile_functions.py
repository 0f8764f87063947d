"""Compiled tile functions: the bits of the functions in torch that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mergesafe.methods.combinations import COMPILED
from mergesafe.methods.definitions import arcee_fusion, pcb
from mergesafe.methods.spec import TensorContext, TileFunction, Unit
from mergesafe.native import DTYPES as CODES
from mergesafe.native import Array, Output, extension
from mergesafe.ops.backends.native import input_of
from mergesafe.ops.tiles import apply

from .helpers import DTYPES, F32, ISAS, assert_same_bits, forced

NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
IMPORTANCE = TileFunction(arcee_fusion.importance, unit=Unit.ROW, compiled="arcee_importance")
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
    base, *experts = tensors
    out = torch.empty(base.shape, dtype=dtype)
    assert how.compiled is not None
    flags = extension.tile_function(
        how.compiled, input_of(base), [input_of(x) for x in experts],
        [Array(x.data_ptr(), x.numel()) for x in scores], base.shape[-1], list(how.settings or ()),
        Output(out.data_ptr(), CODES[NAMES[dtype]]), base.numel(), False, threads,
    )  # fmt: skip
    return out, flags


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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({0: "pcb"}, "no compiled tile function 'pcb'; expected one of arcee_importance"),
        ({2: 2}, "inputs has 2 values; expected 1"),
        ({4: 5}, "n is 12; expected whole rows of 5"),
        ({0: "arcee_fused", 5: [1.0]}, "scores has 0 values; expected 1"),
        ({0: "pcb_score"}, "settings has 0 values; expected 3"),
        ({0: "pcb_score", 5: [1.0, 0.0, 1.0]}, r"settings\[0\] is 1.0\d*; expected the number"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[int, Any], told: str) -> None:
    x = torch.zeros(12)
    given: list[Any] = [
        "arcee_importance", input_of(x), [input_of(x)], [], 4, [],
        Output(x.data_ptr(), CODES["F32"]), 12, False, 1,
    ]  # fmt: skip
    for at, value in change.items():
        given[at] = [input_of(x)] * value if at == 2 else value
    with pytest.raises(ValueError, match=told):
        extension.tile_function(*given)
