"""Order statistics of scores that a method computes: exact in memory and in every cut."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.errors import MethodError
from mergesafe.methods.spec import (
    Combination,
    Fused,
    Inputs,
    KthScore,
    Merge,
    MergeMethod,
    Settings,
    TensorContext,
    TileFunction,
    Unit,
)
from mergesafe.ops.methods import run

LARGE = "model.layers.0.mlp.down_proj.weight"
RUNS: list[dict[str, Any]] = [
    {"memory": "16MiB", "threads": 3}, {"memory": "256MiB", "threads": 1},
    {"memory": "256MiB", "threads": 2}, {"memory": "64MiB", "backend": "reference"},
    {"memory": "16MiB", "backend": "reference"},
]  # fmt: skip


def largest(tile: Any, settings: Any) -> Any:
    """The larger magnitude of two task vectors, an element's."""
    return tile.deltas[0].abs().maximum(tile.deltas[1].abs())


def by_row(tile: Any, settings: tuple[float]) -> Any:
    """A magnitude times its row's sum of squares."""
    delta = tile.deltas[0]
    return delta.abs() * tile.row_sum(delta * delta).float() * settings[0]


def above(tile: Any, settings: tuple[float, ...]) -> Any:
    """How many of the thresholds each element's scores reach."""
    low, high, row, third = settings
    scores = largest(tile, None), by_row(tile, (2.0,))
    masks = (scores[0] >= low, scores[0] >= high, scores[1] >= row, scores[1] >= third)
    count: Any = sum(mask.float() for mask in masks)
    return count


def places(numel: int) -> tuple[tuple[int, int], ...]:
    """Out of order and one twice, as no kernel wants them."""
    return ((0, max(1, numel // 2)), (0, 1), (1, max(1, numel // 10)), (1, numel))


def number(bits: int) -> float:
    found: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return found


class Selects(MergeMethod):
    """Marks elements by thresholds of two scores."""

    title, paper = "Selects", ""
    inputs = Inputs(base="required", least=2, most=2)

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        scores: tuple[Combination, ...] = (
            TileFunction(largest), TileFunction(by_row, (2.0,), unit=Unit.ROW),
        )  # fmt: skip
        bits = yield KthScore(places(tensor.numel), scores)
        return TileFunction(above, tuple(map(number, bits)), unit=Unit.ROW)


def expected(base: torch.Tensor, experts: Sequence[torch.Tensor]) -> torch.Tensor:
    """By sorting. Scores are the functions' own; row sums in float64 do not depend on them."""
    deltas = [x.float() - base.float() for x in experts]
    first = torch.maximum(*(d.abs() for d in deltas))
    rows = deltas[0].reshape(-1, base.shape[-1] if base.ndim else 1)
    squares = (rows * rows).double().sum(-1, keepdim=True).float()
    second = (rows.abs() * squares * 2.0).reshape(base.shape)
    total = torch.zeros_like(first)
    for score, k in places(base.numel()):
        values = (first, second)[score]
        total += values >= values.flatten().sort(descending=True).values[k - 1]
    return total


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (64, 128), (3, 1), (2, 3, 5)])
def test_thresholds_in_memory_are_those_of_a_sort(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    # multiples of 1/8: sums of squares are exact in whatever order
    base, *experts = ((torch.randn(shape, generator=generator) * 8).round() / 8 for _ in range(3))
    assert torch.equal(run(Selects(), experts, base), expected(base, experts))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for i in range(3):
        tensors = {n: (x.float() * 8).round() / 8 for n, x in llama(i).items()}
        generator = torch.Generator().manual_seed(i)
        # rows of a number of elements that no block is a multiple of, and ties
        large = (torch.randn(1500, 1531, generator=generator) * 8).round() / 8
        paths.append(save(folder / str(i), {**tensors, LARGE: large.bfloat16()}))
    return paths


@pytest.mark.parametrize("options", RUNS)
def test_every_cut_gives_the_thresholds_of_a_sort(
    options: dict[str, Any], folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    content = recipe("test_kth_score:Selects", folders[1:], folders[0], dtype="float32")
    plan = ms.plan(content, memory=options["memory"])
    assert (plan.schedule.layouts[LARGE].tile < 1500 * 1531) == (options["memory"] == "16MiB")
    ms.merge(content, tmp_path / "out", **options)
    made, (base, *experts) = read(tmp_path / "out"), [read(folder) for folder in folders]
    for name, tensor in made.items():
        wanted = expected(base[name], [x[name] for x in experts])
        assert same_bits(tensor, wanted), name


class Asks(Selects):
    """Asks for one thing."""

    def __init__(self, request: KthScore) -> None:
        self.name = "asks"
        self.request = request

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield self.request
        return TileFunction(largest)


def wrong(tile: Any, settings: Any) -> Any:
    return tile.deltas[0].double()


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (KthScore(((0, 13),), (TileFunction(largest),)), "a k in [1, 12]"),
        (KthScore(((1, 1),), (TileFunction(largest),)), "a score in [0, 0]"),
        (KthScore(((0, 1),), ()), "without scores"),
        (KthScore(((0, 1),), (TileFunction(largest, unit=Unit.MATRIX),)), "elements or rows"),
        (KthScore(((0, 1),), (Fused("magmax", ()),)), "0 weights"),
        (KthScore(((0, 1),), (TileFunction(largest, [1.0]),)), "settings of tuples and numbers"),
        (KthScore(((0, 1),), (TileFunction(wrong),)), "wrong() returned float64"),
    ],
)
def test_requests_that_do_not_fit(request_: KthScore, told: str) -> None:
    with pytest.raises(MethodError, match="asks") as caught:
        run(Asks(request_), [torch.ones(3, 4)] * 2, torch.zeros(3, 4))
    assert told in str(caught.value)


def test_a_score_may_be_a_fused_combination() -> None:
    base, x, y = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))

    class Largest(Asks):
        def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
            [bits] = yield self.request
            return TileFunction(lambda tile, _: (tile.inputs[0] * 0) + number(bits))

    made = run(Largest(KthScore(((0, 10),), (Fused("magmax", (1.0,)),))), [x, y], base)
    deltas = torch.stack([x - base, y - base])
    scores = (base + deltas.gather(0, deltas.abs().argmax(0, keepdim=True))[0]).abs()
    assert made[0] == scores.sort(descending=True).values[9]
