"""Merged checkpoints against the definitions of the methods in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, llama, read, recipe, save, save_adapter

import mergesafe

from . import float64

WEIGHTS = (0.6, -0.3, 0.9)
Merge = Callable[[torch.Tensor, list[torch.Tensor]], torch.Tensor]


def deltas(base: torch.Tensor, experts: list[torch.Tensor]) -> list[torch.Tensor]:
    return [expert.double() - base.double() for expert in experts]


def ties(
    base: torch.Tensor, experts: list[torch.Tensor], *, elect: str = "sum", normalize: bool = True
) -> torch.Tensor:
    kept = [float64.largest(delta, 0.4) for delta in deltas(base, experts)]
    return float64.add_task_vectors(
        base, kept, WEIGHTS, elect=elect, normalize=normalize, scale=1.5
    )


def breadcrumbs(
    base: torch.Tensor, experts: list[torch.Tensor], *, elect: str = "none", rescale: str = ""
) -> torch.Tensor:
    whole = deltas(base, experts)
    kept = [float64.without_outliers(delta, 0.5, 0.1) for delta in whole]
    if rescale:
        kept = [float64.rescaled(k, d, rescale) for k, d in zip(kept, whole, strict=True)]
    return float64.add_task_vectors(base, kept, WEIGHTS, elect=elect)


BREADCRUMBS = {"density": 0.5, "gamma": 0.1}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], Merge]] = {
    "task_arithmetic": (
        "task_arithmetic", {}, {},
        lambda b, x: float64.add_task_vectors(b, deltas(b, x), WEIGHTS),
    ),
    "task_arithmetic, normalize, lambda": (
        "task_arithmetic", {}, {"normalize": True, "lambda": 0.7},
        lambda b, x: float64.add_task_vectors(b, deltas(b, x), WEIGHTS, normalize=True, scale=0.7),
    ),
    "ties": ("ties", {"density": 0.4}, {"lambda": 1.5}, ties),
    "ties, count": (
        "ties", {"density": 0.4}, {"lambda": 1.5, "elect": "count"},
        lambda b, x: ties(b, x, elect="count"),
    ),
    "ties, sum of what is kept": (
        "ties", {"density": 0.4}, {"lambda": 1.5, "normalize": False},
        lambda b, x: ties(b, x, normalize=False),
    ),
    "breadcrumbs": ("breadcrumbs", BREADCRUMBS, {}, breadcrumbs),
    "breadcrumbs_ties": (
        "breadcrumbs_ties", BREADCRUMBS, {}, lambda b, x: breadcrumbs(b, x, elect="sum"),
    ),
    **{
        f"breadcrumbs, {rule}": (
            "breadcrumbs", BREADCRUMBS, {"rescale": rule},
            lambda b, x, rule=rule: breadcrumbs(b, x, rescale=rule),
        )
        for rule in ("l1", "l2", "linf")
    },
}  # fmt: skip


def checkpoints(folder: Path, count: int, dtype: torch.dtype) -> tuple[list[Path], list[Tensors]]:
    tensors = [llama(seed, dtype=dtype) for seed in range(count)]
    return [save(folder / f"m{i}", each) for i, each in enumerate(tensors)], tensors


def assert_float32(merged: torch.Tensor, exact: torch.Tensor, scale: float) -> None:
    """A few roundings of float32 at the scale of the operands, no more."""
    assert merged.dtype == torch.float32
    assert float((merged.double() - exact).abs().max()) <= 4 * 2**-24 * scale


def assert_rounded_once(merged: torch.Tensor, exact: torch.Tensor, scale: float) -> None:
    """As near to the exact result as its nearest bf16 number, up to roundings of float32."""
    nearest = exact.to(torch.bfloat16).double()
    excess = (merged.double() - exact).abs() - (nearest - exact).abs()
    assert merged.dtype == torch.bfloat16
    assert float(excess.max()) <= 4 * 2**-24 * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_task_arithmetic_family(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    method, each, shared, truth = CASES[case]
    (base, *experts), tensors = checkpoints(tmp_path, 4, dtype)
    parameters = [{**each, "weight": weight} for weight in WEIGHTS]
    content = recipe(method, experts, base, each=parameters, parameters=shared)
    mergesafe.merge(content, tmp_path / "out")
    merged = read(tmp_path / "out")
    assert merged.keys() == tensors[0].keys()
    check = assert_float32 if dtype == torch.float32 else assert_rounded_once
    for name in merged:
        operands = [model[name] for model in tensors]
        exact = truth(operands[0], operands[1:])
        scale = max(float(exact.abs().max()), *(float(x.abs().max()) for x in operands))
        check(merged[name], exact, scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalize", [True, False])
def test_linear(normalize: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    models, tensors = checkpoints(tmp_path, 3, dtype)
    parameters = [{"weight": weight} for weight in WEIGHTS]
    content = recipe("linear", models, each=parameters, parameters={"normalize": normalize})
    mergesafe.merge(content, tmp_path / "out")
    check = assert_float32 if dtype == torch.float32 else assert_rounded_once
    for name, merged in read(tmp_path / "out").items():
        exact = float64.linear([model[name] for model in tensors], WEIGHTS, normalize)
        check(merged, exact, max(float(model[name].abs().max()) for model in tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(t: float, dtype: torch.dtype, tmp_path: Path) -> None:
    models, (a, b) = checkpoints(tmp_path, 2, dtype)
    mergesafe.merge(recipe("slerp", models, models[0], parameters={"t": t}), tmp_path / "out")
    check = assert_float32 if dtype == torch.float32 else assert_rounded_once
    for name, merged in read(tmp_path / "out").items():
        scale = float(torch.maximum(a[name].abs(), b[name].abs()).max())
        check(merged, float64.slerp(a[name], b[name], t), scale)


def test_passthrough_scales(tmp_path: Path) -> None:
    (model,), (tensors,) = checkpoints(tmp_path, 1, torch.bfloat16)
    mergesafe.merge(recipe("passthrough", [model], each={"scale": -0.7}), tmp_path / "out")
    for name, merged in read(tmp_path / "out").items():
        assert_rounded_once(merged, -0.7 * tensors[name].double(), float(tensors[name].abs().max()))


def test_passthrough_without_scale_is_a_copy(tmp_path: Path) -> None:
    (model,), (tensors,) = checkpoints(tmp_path, 1, torch.bfloat16)
    mergesafe.merge(recipe("passthrough", [model]), tmp_path / "out")
    merged = read(tmp_path / "out")
    assert merged.keys() == tensors.keys()
    assert all(torch.equal(merged[name], tensors[name]) for name in merged)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rule", ["l1", "l2", "inverse_density"])
def test_dare(method: str, rule: str, tmp_path: Path) -> None:
    """The masks are read off dare_linear merges of one expert each, then the result is exact."""
    (base, *experts), (base_tensors, *tensors) = checkpoints(tmp_path, 3, torch.float32)
    name, weights, density = "model.layers.1.mlp.up_proj.weight", (0.6, -0.3), 0.7
    masks = []
    for i in range(2):
        # Weight 0 silences the other expert without moving this one to another index.
        each = [{"weight": float(i == j), "density": density} for j in range(2)]
        content = recipe("dare_linear", experts, base, each=each, parameters={"rescale": "none"})
        mergesafe.merge(content, tmp_path / f"mask{i}")
        masks.append((read(tmp_path / f"mask{i}")[name] - base_tensors[name]) != 0)
    assert all(
        abs(float(mask.double().mean()) - density) < 4 * (0.21 / 640) ** 0.5 for mask in masks
    )
    assert bool((masks[0] != masks[1]).any())

    each = [{"weight": weight, "density": density} for weight in weights]
    content = recipe(method, experts, base, each=each, parameters={"rescale": rule})
    mergesafe.merge(content, tmp_path / "out")
    b = base_tensors[name].double()
    kept = []
    for mask, model in zip(masks, tensors, strict=True):
        delta = model[name].double() - b
        survivors = delta * mask
        scaled = survivors / density
        kept.append(
            scaled if rule == "inverse_density" else float64.rescaled(survivors, delta, rule)
        )
    elect = "sum" if method == "dare_ties" else "none"
    exact = float64.add_task_vectors(b, kept, weights, elect=elect)
    assert_float32(read(tmp_path / "out")[name], exact, float(exact.abs().max()))


def test_adapter_equals_the_merged_model(tmp_path: Path) -> None:
    """model+adapter is W + alpha/r * B @ A."""
    (base, other), (base_tensors, others) = checkpoints(tmp_path, 2, torch.float32)
    adapter = save_adapter(tmp_path / "adapter", base_tensors, 7, rank=3)
    factors = read(adapter)
    models = [f"{base}+{adapter}", other]
    mergesafe.merge(recipe("linear", models, each={"weight": 1}), tmp_path / "out")
    for name, merged in read(tmp_path / "out").items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        expert = base_tensors[name].double()
        if f"{prefix}A.weight" in factors:
            a, b = (factors[f"{prefix}{side}.weight"].double() for side in "AB")
            expert = expert + 2.0 * b @ a
        exact = (expert + others[name].double()) / 2
        assert_float32(merged, exact, float(expert.abs().max()))


def test_gradients_follow_the_layers(tmp_path: Path) -> None:
    """Layer i of n takes t = i / (n - 1); what lies outside the layers takes t = 0."""
    models, tensors = checkpoints(tmp_path, 2, torch.float32)
    each = [{"weight": [0.0, 1.0]}, {"weight": [1.0, 0.0]}]
    mergesafe.merge(recipe("linear", models, each=each), tmp_path / "out")
    merged = read(tmp_path / "out")
    positions = {"model.embed_tokens.weight": 0.0, "model.norm.weight": 0.0, "lm_head.weight": 0.0}
    positions |= {f"model.layers.{i}.mlp.up_proj.weight": i / 2 for i in range(3)}
    for name, t in positions.items():
        exact = float64.linear([model[name] for model in tensors], (t, 1 - t))
        assert_float32(merged[name], exact, float(exact.abs().max()))


def test_the_first_filter_that_matches_wins(tmp_path: Path) -> None:
    models, (a, b) = checkpoints(tmp_path, 2, torch.float32)
    branches = [{"filter": "mlp.up", "value": 0}, {"filter": "mlp", "value": 1}, {"value": 0.5}]
    mergesafe.merge(recipe("slerp", models, models[0], parameters={"t": branches}), tmp_path / "o")
    merged = read(tmp_path / "o")
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    assert_float32(merged[up], a[up].double(), float(a[up].abs().max()))
    assert_float32(merged[down], b[down].double(), float(b[down].abs().max()))
    norm = "model.norm.weight"
    assert_float32(merged[norm], float64.slerp(a[norm], b[norm], 0.5), 2.0)
