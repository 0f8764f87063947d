"""The same recipes through mergekit, where it is installed (skipped elsewhere)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.peer import Mergekit, mergekit_python
from tiny import Tensors, llama, read, recipe, save

import mergesafe

from . import float64

pytestmark = pytest.mark.skipif(mergekit_python() is None, reason="mergekit is not installed")

WEIGHTS = (0.6, 0.3)
RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"parameters": {"normalize": False}},
    "linear normalized": {},
    "slerp": {"parameters": {"t": [0.1, 0.9, 0.4]}},
    "task_arithmetic": {"parameters": {"lambda": 0.7}},
    "ties": {"density": 0.4},
    "ties by layer": {"density": [0.2, 0.9], "parameters": {"normalize": False}},
    "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "breadcrumbs_ties": {"density": 0.5, "gamma": 0.1, "parameters": {"normalize": True}},
    "passthrough": {},
}
#: The inputs, our outputs by recipe, and mergekit's.
Merges = tuple[list[Tensors], dict[str, Tensors], dict[str, Tensors]]


def content(name: str, models: list[Path], dtype: str) -> dict[str, Any]:
    method = name.split()[0]
    keys = dict(RECIPES[name])
    shared = keys.pop("parameters", {})
    each: list[dict[str, Any]] = [{**keys, "weight": weight} for weight in WEIGHTS]
    if method == "slerp":
        return recipe(method, models[:2], models[0], parameters=shared, dtype=dtype)
    if method == "passthrough":
        return recipe(method, models[:1], each={"scale": 0.3}, dtype=dtype)
    base = None if method == "linear" else models[0]
    return recipe(method, models[1:], base, each=each, parameters=shared, dtype=dtype)


@pytest.fixture(scope="module")
def inputs() -> list[Tensors]:
    """A base and two experts whose differences are small, as those of fine-tuning are."""
    base = llama(0, dtype=torch.float32)
    experts = [
        {
            name: base[name] + 0.1 * tensor
            for name, tensor in llama(seed, dtype=torch.float32).items()
        }
        for seed in (1, 2)
    ]
    return [base, *experts]


@pytest.fixture(scope="module")
def mergekit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mergekit]:
    with Mergekit(tmp_path_factory.mktemp("mergekit")) as process:
        yield process


@pytest.fixture(scope="module")
def float32(
    inputs: list[Tensors], mergekit: Mergekit, tmp_path_factory: pytest.TempPathFactory
) -> Merges:
    return run_both("float32", inputs, mergekit, tmp_path_factory.mktemp("float32"))


@pytest.fixture(scope="module")
def bfloat16(
    inputs: list[Tensors], mergekit: Mergekit, tmp_path_factory: pytest.TempPathFactory
) -> Merges:
    return run_both("bfloat16", inputs, mergekit, tmp_path_factory.mktemp("bfloat16"))


def run_both(dtype_name: str, inputs: list[Tensors], mergekit: Mergekit, folder: Path) -> Merges:
    """Merge ``inputs`` as ``dtype_name`` by every recipe, with us and with mergekit."""
    dtype = getattr(torch, dtype_name)
    stored = [{name: tensor.to(dtype) for name, tensor in model.items()} for model in inputs]
    config = {"torch_dtype": dtype_name}
    models = [save(folder / f"m{i}", model, config) for i, model in enumerate(stored)]
    recipes = {name: content(name, models, dtype_name) for name in RECIPES}
    for name, each in recipes.items():
        assert mergekit.merge(each, folder / "theirs" / name) is None
    for name, each in recipes.items():
        mergesafe.merge(each, folder / "ours" / name)
    ours, theirs = ({n: read(folder / side / n) for n in RECIPES} for side in ("ours", "theirs"))
    return stored, ours, theirs


@pytest.mark.parametrize("name", RECIPES)
def test_equal_up_to_rounding_in_float32(name: str, float32: Merges) -> None:
    _, ours, theirs = float32
    assert ours[name].keys() == theirs[name].keys()
    for key, tensor in ours[name].items():
        difference = (tensor.double() - theirs[name][key].double()).abs().max()
        assert float(difference) <= 2e-6 * float(tensor.abs().max())


@pytest.mark.parametrize("name", RECIPES)
def test_no_farther_from_float64_than_mergekit_in_bfloat16(name: str, bfloat16: Merges) -> None:
    """mergekit rounds some steps to bfloat16 and cuts equal magnitudes by chance."""
    inputs, ours, theirs = bfloat16
    errors = [relative_error(name, merged, inputs) for merged in (ours[name], theirs[name])]
    assert errors[0] <= errors[1], f"ours {errors[0]:.3g}, mergekit {errors[1]:.3g}"


def relative_error(name: str, merged: Tensors, inputs: list[Tensors]) -> float:
    """Root mean square error of all elements over the root mean square of the truth."""
    wrong = size = 0.0
    for key, tensor in merged.items():
        exact = truth(name, key, [model[key].double() for model in inputs])
        wrong += float((tensor.double() - exact).square().sum())
        size += float(exact.square().sum())
    return (wrong / size) ** 0.5


def truth(name: str, key: str, models: list[torch.Tensor]) -> torch.Tensor:
    layer = int(key.split(".")[2]) if ".layers." in key else 0
    base, *experts = models
    deltas = [expert - base for expert in experts]
    if name.startswith("linear"):
        return float64.linear(experts, WEIGHTS, normalize=name == "linear normalized")
    if name == "passthrough":
        return 0.3 * base
    if name == "slerp":
        return float64.slerp(base, experts[0], (0.1, 0.9, 0.4)[layer])
    if name == "task_arithmetic":
        return float64.add_task_vectors(base, deltas, WEIGHTS, scale=0.7)
    if name.startswith("ties"):
        density = (0.2, 0.55, 0.9)[layer] if name == "ties by layer" else 0.4
        kept = [float64.largest(delta, density) for delta in deltas]
        normalize = name == "ties"
        return float64.add_task_vectors(base, kept, WEIGHTS, elect="sum", normalize=normalize)
    kept = [float64.without_outliers(delta, 0.5, 0.1) for delta in deltas]
    elect = "none" if name == "breadcrumbs" else "sum"
    normalize = name == "breadcrumbs_ties"
    return float64.add_task_vectors(base, kept, WEIGHTS, elect=elect, normalize=normalize)
