"""LiNeS: against the definition in float64, as a merge, in slices and of adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save, save_adapter, write_recipe

import mergesafe as ms
from mergesafe.errors import ArgumentError
from mergesafe.ops.methods import run

LAYERS = 3
WEIGHTS = [0.7, -0.4, 1.3]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("lines")
    return [save(folder / n, llama(i, dtype=torch.float32)) for i, n in enumerate("abcd")]


def position(name: str) -> float:
    """Of the tensor's layer: l / (L - 1)."""
    parts = name.split(".")
    return int(parts[2]) / (LAYERS - 1) if ".layers." in name else 0.0


def test_a_merge_is_the_definition(models: list[Path], tmp_path: Path) -> None:
    content = recipe(
        "lines", models[1:], models[0], each=[{"weight": w} for w in WEIGHTS],
        parameters={"alpha": 0.6, "beta": 0.9}, dtype="float32",
    )  # fmt: skip
    assert ms.plan(content).plan.exactness == "bits"
    ms.merge(content, tmp_path / "out", memory="16MiB", threads=2)
    base, *experts = (read(path) for path in models)
    for name, made in read(tmp_path / "out").items():
        wide = base[name].double()
        deltas = sum(w * (x[name].double() - wide) for w, x in zip(WEIGHTS, experts, strict=True))
        exact = wide + (0.6 + 0.9 * position(name)) * deltas / 3
        # sums of a few float32 numbers of about 1
        assert torch.allclose(made.double(), exact, rtol=0, atol=2e-6), name
        again = run(
            "lines", [x[name] for x in experts], base[name], weight=WEIGHTS, alpha=0.6, beta=0.9,
            position=position(name),
        )  # fmt: skip
        assert same_bits(made, again), name


def test_it_is_task_arithmetic_with_a_list_of_two(models: list[Path], tmp_path: Path) -> None:
    """As its page says of any method with a factor."""
    ours = recipe("lines", models[1:], models[0], parameters={"beta": 1.0}, dtype="float32")
    theirs = recipe(
        "task_arithmetic", models[1:], models[0], each={"weight": 1 / 3},
        parameters={"lambda": [1.0, 2.0]}, dtype="float32",
    )  # fmt: skip
    for content, out in ((ours, "ours"), (theirs, "theirs")):
        ms.merge(content, tmp_path / out)
    expected = read(tmp_path / "theirs")
    assert all(same_bits(x, expected[name]) for name, x in read(tmp_path / "ours").items())


def test_an_expert_of_weight_0_is_not_read(models: list[Path], tmp_path: Path) -> None:
    content = recipe(
        "lines", models[1:3], models[0], each=[{"weight": 1.0}, {"weight": 0.0}],
        parameters={"beta": 0.5}, dtype="float32",
    )  # fmt: skip
    ms.merge(content, tmp_path / "out")
    base, expert = read(models[0]), read(models[1])
    for name, made in read(tmp_path / "out").items():
        both = [expert[name], base[name]]
        expected = run("lines", both, base[name], beta=0.5, position=position(name))
        assert same_bits(made, expected), name  # half of one task vector all the same


def test_layers_are_those_of_the_slice(models: list[Path], tmp_path: Path) -> None:
    """As with a recipe's lists."""
    base, expert = (str(path) for path in models[:2])
    sources = [{"model": base}, {"model": expert}]
    slices = [
        {"sources": [{**each, "layer_range": [low, high]} for each in sources]}
        for low, high in ((0, 2), (2, 3))
    ]
    content = {
        "merge_method": "lines", "base_model": base, "dtype": "float32", "slices": slices,
        "parameters": {"beta": 1.0},
    }  # fmt: skip
    ms.merge(content, tmp_path / "out")
    made, there, tuned = read(tmp_path / "out"), read(models[0]), read(models[1])
    for layer, factor in ((0, 1.0), (1, 2.0), (2, 2.0)):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        expected = run("lines", [tuned[name]], there[name], beta=1.0, position=factor - 1.0)
        assert same_bits(made[name], expected), name


def test_in_core_space_adapters_grow_with_depth(tmp_path: Path) -> None:
    base = llama(0, dtype=torch.float32)
    folder = save(tmp_path / "base", base)
    adapters = [save_adapter(tmp_path / f"a{seed}", base, seed) for seed in (1, 2)]
    named = [f"{folder}+{path}" for path in adapters]
    for method, out in (("core_space(lines)", "core"), ("lines", "whole")):
        content = recipe(method, named, folder, parameters={"beta": 1.0}, dtype="float32")
        ms.merge(content, tmp_path / out)
    whole = read(tmp_path / "whole")
    for name, made in read(tmp_path / "core").items():
        # the sum is linear, so that only the rounding of float32 differs
        assert torch.allclose(made, whole[name], rtol=0, atol=1e-5), name


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan")])
def test_a_position_outside_the_stack(value: float) -> None:
    x = torch.ones(2, 2)
    with pytest.raises(ArgumentError, match="position"):
        run("lines", [x], x, beta=1.0, position=value)


def test_the_recipe_must_say_beta(models: list[Path], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", recipe("lines", models[1:], models[0]))
    with pytest.raises(ms.MergesafeError, match=r"r.yml:\d+: lines needs 'beta'.*; set it under"):
        ms.plan(path)
