"""A method of one's own is the same in a plan, in memory, resident and streamed in tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import read, recipe, same_bits, save

import mergesafe
from mergesafe import ops
from mergesafe.engine.run import workers
from mergesafe.errors import MethodError
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import (
    Gram,
    Inputs,
    KthMagnitude,
    MergeMethod,
    MergeTaskVectors,
    Settings,
    Sparsify,
    TensorContext,
    WeightedSum,
)
from mergesafe.ops.methods import run

NUMEL = 3_000_000
SMALL = "16MiB"


@pytest.fixture(scope="module")
def tensors() -> list[torch.Tensor]:
    """Of a base and three experts, none like the other."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(NUMEL, generator=generator)
    experts = [base * i + torch.randn(NUMEL, generator=generator) for i in (1, 2, 3)]
    return [x.bfloat16() for x in (base, *experts)]


@pytest.fixture(scope="module")
def models(tensors: list[torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [save(folder / name, {"w": x}) for name, x in zip("abcd", tensors, strict=True)]


class ByNorm(MergeMethod):
    """Experts weighted by their norms, from a Gram matrix of the experts: no base in either."""

    name, title, paper = "by_norm", "By norm", ""
    inputs = Inputs(base="required")
    seen: list[list[list[float]]]

    def merge(self, tensor: TensorContext, settings: Settings) -> Any:
        gram = yield Gram()
        self.seen.append(gram)
        norms = [gram[i][i] ** 0.5 for i in range(tensor.inputs)]
        return WeightedSum(tuple(norm / sum(norms) for norm in norms))


@pytest.fixture
def by_norm(monkeypatch: pytest.MonkeyPatch) -> ByNorm:
    method = ByNorm()
    method.seen = []
    monkeypatch.setitem(METHODS, method.name, method)
    return method


@pytest.mark.parametrize("memory", [SMALL, "64MiB"])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_gram_and_sum_are_those_of_the_experts(
    by_norm: ByNorm,
    models: list[Path],
    tensors: list[torch.Tensor],
    tmp_path: Path,
    memory: str,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = replace(workers.CPU_SIZES, kept=1 << 30)  # else it is cut with either budget
    monkeypatch.setattr(workers, "CPU_SIZES", kept)
    content = recipe("by_norm", models[1:], models[0])
    report = mergesafe.plan(content, memory=memory, threads=1)
    layout = report.schedule.layouts["w"]
    assert (layout.tile < NUMEL) == (memory == SMALL)
    assert report.plan.tasks[0].statistics == (Gram(),)
    planned = by_norm.seen.pop()
    assert planned == [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    by_norm.seen.clear()

    mergesafe.merge(content, tmp_path / "out", memory=memory, threads=1, backend=backend)
    streamed = by_norm.seen[-1]
    expected = run(by_norm, tensors[1:], tensors[0], backend=backend)
    assert streamed == by_norm.seen[-1]
    assert len(streamed) == 3
    assert streamed == ops.gram(tensors[1:]).tolist()
    weights = [streamed[i][i] ** 0.5 for i in range(3)]
    weights = [w / sum(weights) for w in weights]
    assert same_bits(expected, ops.weighted_sum(tensors[1:], weights))
    assert same_bits(read(tmp_path / "out")["w"], expected)


class Descending(MergeMethod):
    """Thresholds asked for with the last expert first, one of them twice."""

    name, title, paper = "descending", "Descending", ""
    inputs = Inputs(base="required")

    def merge(self, tensor: TensorContext, settings: Settings) -> Any:
        third = tensor.numel // 3
        last, _, again, first = yield KthMagnitude(
            ((2, third), (1, tensor.numel), (2, third), (0, 5))
        )
        assert last == again
        masks = (Sparsify(first), Sparsify(), Sparsify(last))
        return MergeTaskVectors((1.0, 1.0, 1.0), masks)


@pytest.mark.parametrize("memory", [SMALL, "64MiB"])
def test_ranks_come_in_any_order(
    models: list[Path],
    tensors: list[torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
) -> None:
    monkeypatch.setitem(METHODS, "descending", Descending())
    content = recipe("descending", models[1:], models[0])
    mergesafe.merge(content, tmp_path / "out", memory=memory, threads=1)
    expected = run("descending", tensors[1:], tensors[0], backend="reference")
    assert same_bits(read(tmp_path / "out")["w"], expected)


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_a_streamed_tensor_without_an_expert_that_changes_nothing(
    models: list[Path], tensors: list[torch.Tensor], tmp_path: Path, method: str
) -> None:
    """Thresholds, norms and random masks are those of the experts that are left."""
    weights = [0.5, 0.0, 0.25]
    each = [{"weight": weight, "density": 0.3} for weight in weights]
    content = recipe(method, models[1:], models[0], each=each, parameters={"rescale": True})
    report = mergesafe.plan(content, memory=SMALL, threads=1)
    assert report.schedule.layouts["w"].tile < NUMEL
    assert report.plan.bytes_in == 3 * 2 * NUMEL
    mergesafe.merge(content, tmp_path / "out", memory=SMALL, threads=1)
    run_here = run(
        method, tensors[1:], tensors[0], name="w", weight=weights, density=0.3, rescale=True
    )
    assert same_bits(read(tmp_path / "out")["w"], run_here)


class Undecided(MergeMethod):
    """Asks for a Gram matrix only where a threshold is not what the dry run answered."""

    name, title, paper = "undecided", "Undecided", ""
    inputs = Inputs(base="required")

    def merge(self, tensor: TensorContext, settings: Settings) -> Any:
        [bits] = yield KthMagnitude(((0, 1),))
        if bits:
            yield Gram()
        return WeightedSum((1.0, 0.0, 0.0))


def test_requests_that_depend_on_answers_stop_the_merge(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "undecided", Undecided())
    content = recipe("undecided", models[1:], models[0])
    assert len(mergesafe.plan(content).plan.tasks[0].statistics) == 1
    with pytest.raises(MethodError, match=r"tensor 'w': .*where a dry run asked for nothing more"):
        mergesafe.merge(content, tmp_path / "out")
    assert not (tmp_path / "out").exists()
