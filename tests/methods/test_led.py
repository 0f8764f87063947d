"""LED: against sets of elements in plain Python, its choices, and as a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, llama, read, recipe, same_bits, save, save_file

import mergesafe as ms
from mergesafe import methods
from mergesafe.errors import ArgumentError, CheckpointError, MethodError, RecipeError

SHAPE = (12, 9)
NORM = "model.norm.weight"
LARGE = "model.layers.0.mlp.up_proj.weight"


def drawn(seed: int, count: int, shape: tuple[int, ...] = SHAPE) -> list[torch.Tensor]:
    return list(torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)))


def scores(seed: int, count: int) -> list[torch.Tensor]:
    """Of which some are equal, and some 0."""
    return [(x.abs() * 4).floor() / 4 for x in drawn(seed, count)]


def top(score: list[float], density: float) -> set[int]:
    if density <= 0:
        return set()
    count = max(1, int(density * len(score)))
    least = sorted(score, reverse=True)[count - 1]
    return {i for i, x in enumerate(score) if x >= least and x > 0}


def truth(
    base: torch.Tensor,
    experts: list[torch.Tensor],
    of_experts: list[torch.Tensor],
    of_base: list[torch.Tensor],
    densities: list[float],
    weights: list[float],
    alpha: float = 0.9,
    safety: int | None = None,
) -> torch.Tensor:
    """The formula with sets; ``safety``: the expert that gets what is contested."""
    located = [
        top(one.flatten().tolist(), density) & top(two.flatten().tolist(), density)
        for one, two, density in zip(of_experts, of_base, densities, strict=True)
    ]
    out = base.double().flatten().clone()
    for i, (expert, weight) in enumerate(zip(experts, weights, strict=True)):
        others = set().union(*(e for j, e in enumerate(located) if j != i))
        mine = located[i] if i == safety else located[i] - others
        for at in mine:
            change = expert.double().flatten()[at] - base.double().flatten()[at]
            out[at] += alpha * weight * change
    return out.view(base.shape)


@pytest.mark.parametrize("safety", [None, 1])
@pytest.mark.parametrize("densities", [[0.5, 0.2, 0.9], [1.0, 1.0, 0.0], [0.001, 0.4, 0.4]])
def test_led_is_its_definition(densities: list[float], safety: int | None) -> None:
    base, *experts = drawn(0, 4)
    of_experts, of_base = scores(1, 3), scores(2, 3)
    weights = [0.5, 1.0, 1.5]
    given: dict[str, Any] = {"density": densities, "weight": weights}
    if safety is not None:
        given |= {"contested": "safety", "safety": [i == safety for i in range(3)]}
    made = methods.led(base, experts, score=of_experts, base_score=of_base, **given)
    exact = truth(base, experts, of_experts, of_base, densities, weights, safety=safety)
    # a handful of float32 operations
    assert torch.allclose(made.double(), exact, rtol=1e-6, atol=1e-6)


def test_what_nobody_located_is_the_bases() -> None:
    base, *experts = drawn(0, 3)
    same = scores(1, 1) * 2
    made = methods.led(base, experts, score=same, base_score=same, density=0.5)
    assert same_bits(made, base)  # all that is located is contested
    zero = [torch.zeros(SHAPE)] * 2
    assert same_bits(methods.led(base, experts, score=zero, base_score=zero, density=1.0), base)


def test_several_experts_of_safety_contest_among_themselves() -> None:
    base, *experts = drawn(0, 4)
    same = [torch.ones(SHAPE)] * 3
    given: dict[str, Any] = {"score": same, "base_score": same, "contested": "safety"}
    two = methods.led(base, experts, **given, safety=[True, True, False])
    assert same_bits(two, base)
    one = methods.led(base, experts, **given, safety=[False, True, False], alpha=1.0)
    assert torch.allclose(one, experts[1], rtol=0, atol=1e-6)


def test_order_of_experts_does_not_matter() -> None:
    base, *experts = drawn(0, 4)
    of_experts, of_base, densities = scores(1, 3), scores(2, 3), [0.3, 0.6, 0.5]
    one = methods.led(base, experts, score=of_experts, base_score=of_base, density=densities)
    two = methods.led(
        base, experts[::-1], score=of_experts[::-1], base_score=of_base[::-1],
        density=densities[::-1],
    )  # fmt: skip
    assert same_bits(one, two)  # an element is of one expert, so there is nothing to round


def saved_scores(tensors: Tensors, seed: int, folder: Path) -> str:
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir()
    made = {n: torch.rand(x.shape, generator=generator) for n, x in tensors.items() if n != NORM}
    save_file(made, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """A recipe of two experts with scores of all tensors but the last norm."""
    folders = [save(tmp_path / str(i), llama(i)) for i in range(3)]
    made = recipe("led", folders[1:], folders[0], each={"density": 0.6}, dtype="float32")
    for i, entry in enumerate(made["models"]):
        entry["calibration"] = {
            kind: saved_scores(llama(i), 10 * i + j, tmp_path / f"{kind}{i}")
            for j, kind in enumerate(("score", "base_score"))
        }
    return made


@pytest.mark.parametrize("options", [{}, {"memory": "16MiB", "threads": 3}])
def test_a_merge_is_that_of_its_tensors(
    content: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    report = ms.plan(content)
    assert report.plan.exactness == "bits"
    assert any("1 tensor (model.norm.weight) is merged without 'score'" in note
               for note in report.plan.notes)  # fmt: skip
    ms.merge(content, tmp_path / "out", **options)
    base, *experts = (read(tmp_path / str(i)) for i in range(3))
    known = [[read(tmp_path / f"{kind}{i}") for i in range(2)] for kind in ("score", "base_score")]
    for name, tensor in read(tmp_path / "out").items():
        each = [x[name] for x in experts]
        if name == NORM:
            expected = methods.task_arithmetic(base[name], each, weight=0.5, lambda_=0.9)
            assert torch.allclose(tensor, expected.float(), rtol=2**-8, atol=1e-6)
            continue
        score, base_score = ([x[name] for x in kind] for kind in known)
        expected = methods.led(
            base[name], each, score=score, base_score=base_score, density=0.6,
            out_dtype=torch.float32,
        )  # fmt: skip
        assert same_bits(tensor, expected), name


def test_a_tensor_that_does_not_fit_is_streamed(tmp_path: Path) -> None:
    """Thresholds are those of the whole tensor, whatever the tile."""
    shape = (600, 1531)
    base, *experts = (x.bfloat16() for x in drawn(0, 3, shape))
    known = [[(x.abs() * 64).floor() / 64 for x in drawn(seed, 2, shape)] for seed in (1, 2)]
    folders = [save(tmp_path / str(i), {LARGE: x}) for i, x in enumerate((base, *experts))]
    content = recipe("led", folders[1:], folders[0], each={"density": 0.3}, dtype="float32")
    for i, entry in enumerate(content["models"]):
        entry["calibration"] = {}
        for kind, of in zip(("score", "base_score"), known, strict=True):
            place = tmp_path / f"{kind}{i}"
            place.mkdir()
            save_file({LARGE: of[i]}, place / "model.safetensors")
            entry["calibration"][kind] = str(place)
    expected = methods.led(
        base, experts, score=known[0], base_score=known[1], density=0.3, out_dtype=torch.float32
    )
    # counted in two passes; sampled and selected in one; all scores kept in memory
    for memory, streamed in (("16MiB", True), ("24MiB", True), ("64MiB", False)):
        report = ms.plan(content, memory=memory, threads=2)
        assert (report.schedule.layouts[LARGE].tile < base.numel()) == streamed
        moved: list[int] = []
        ms.merge(
            content, tmp_path / "out", memory=memory, threads=2, overwrite=True,
            progress=lambda plan, schedule, moved=moved: moved.append,
        )  # fmt: skip
        assert same_bits(read(tmp_path / "out")[LARGE], expected), memory
        assert sum(moved) == report.schedule.bytes_read + report.plan.bytes_out


def test_bad_calibration_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    place = Path(content["models"][0]["calibration"].pop("base_score"))
    with pytest.raises(RecipeError, match=r"led needs 'calibration: \{base_score: PATH\}'"):
        ms.plan(content)
    content["models"][0]["calibration"]["base_score"] = str(place)
    first = "model.layers.0.input_layernorm.weight"
    save_file(read(place) | {first: torch.ones(3)}, place / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"of shape \[3\]; expected .* the 'base_score'"):
        ms.plan(content)


def test_safety_that_nobody_is_marked_for_is_a_warning(content: dict[str, Any]) -> None:
    content["parameters"] = {"contested": "safety"}
    assert any("no model with safety: true" in each for each in ms.plan(content).plan.warnings)
    content["models"][1]["parameters"]["safety"] = True
    assert not any("safety: true" in each for each in ms.plan(content).plan.warnings)


def test_scores_in_memory_are_checked() -> None:
    base, one = drawn(0, 2)
    with pytest.raises(ArgumentError, match="led needs 'base_score'"):
        methods.led(base, [one], score=[one.abs()])
    for name in ("score", "base_score"):
        given = {"score": [one.abs()], "base_score": [one.abs()], name: [-one.abs()]}
        with pytest.raises(MethodError, match=f"'{name}' of an expert holds negative numbers"):
            methods.led(base, [one], **given)
