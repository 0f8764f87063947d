"""Starts without data: weights from norms of task vectors, and recipes that are filled in so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, save, save_adapter, write_recipe

import mergesafe as ms
from mergesafe.cli.tune import summary
from mergesafe.errors import NonFiniteError, RecipeError, TuningError
from mergesafe.recipe.load import load_recipe
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.setup import prepare
from mergesafe.tune.start import data_free_weights

GRANULARITIES = ["model", "block:1", "layer", "tensor"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base, two experts that differ by different lengths, and one that shares a layer."""
    folder = tmp_path_factory.mktemp("start")
    base = llama(0, dtype=torch.float32)
    made = [save(folder / "base", base)]
    for number, length in enumerate((0.1, 0.3, 0.2)):
        other = llama(number + 1, dtype=torch.float32)
        moved = {name: x + length * (other[name] - x) for name, x in base.items()}
        if number == 2:
            moved |= {name: x for name, x in base.items() if ".layers.0." in name}
        made.append(save(folder / f"expert{number}", moved))
    return made


def expected(space: CoefficientSpace, models: list[Path], rule: str) -> torch.Tensor:
    """In float64, by the definition."""
    base, *experts = (read(path) for path in models)
    columns = []
    for group in space.groups:
        norms = [
            sum(float((x[n].double() - base[n].double()).square().sum()) for n in group.tensors)
            for x in experts
        ]
        parts = norms if rule == "metagpt" else [n**-0.5 if n else 0.0 for n in norms]
        columns.append([part / sum(parts) for part in parts])
    return torch.tensor(columns, dtype=torch.float64).T


def space_of(models: list[Path], granularity: str, method: str = "ties") -> CoefficientSpace:
    content = recipe(method, models[1:], models[0], each={"weight": 0.5})
    return CoefficientSpace(ms.plan(content).plan, granularity)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("rule", ["nan", "metagpt"])
def test_weights_are_those_of_the_definition(
    rule: str, granularity: str, models: list[Path]
) -> None:
    space = space_of(models, granularity)
    found = data_free_weights(space, rule, memory=1 << 24, threads=1)
    # task vectors are differences in float32, summed in float64
    assert torch.allclose(found, expected(space, models, rule), rtol=1e-6)
    assert torch.allclose(found.sum(0), torch.ones(len(space.groups), dtype=torch.float64))
    again = data_free_weights(space, rule, memory=1 << 20, threads=3)
    assert torch.equal(found, again)


@pytest.mark.parametrize("rule", ["nan", "metagpt"])
def test_an_expert_without_a_task_vector_has_no_weight(rule: str, models: list[Path]) -> None:
    space = space_of(models, "layer")
    found = data_free_weights(space, rule, memory=1 << 24, threads=1)
    layer = [group.name for group in space.groups].index("model.layers.0")
    assert found[2, layer] == 0.0
    assert (found[2] > 0).sum() == len(space.groups) - 1


def test_equal_experts_get_equal_weights(models: list[Path], tmp_path: Path) -> None:
    twin = save(tmp_path / "twin", read(models[1]))
    space = space_of([models[0], models[1], twin], "layer")
    for rule in ("nan", "metagpt"):
        found = data_free_weights(space, rule, memory=1 << 24, threads=1)
        assert torch.equal(found, torch.full_like(found, 0.5))


def test_adapters_count_by_what_they_add(tmp_path: Path) -> None:
    base = llama(0, dtype=torch.float32)
    folder = save(tmp_path / "base", base)
    adapters = [save_adapter(tmp_path / f"a{seed}", base, seed) for seed in (1, 2)]
    content = recipe(
        "task_arithmetic", [f"{folder}+{path}" for path in adapters], folder, each={"weight": 0.5}
    )
    space = CoefficientSpace(ms.plan(content).plan, "model")
    found = data_free_weights(space, "metagpt", memory=1 << 24, threads=1)
    merged = []
    for path in adapters:
        alone = recipe("task_arithmetic", [f"{folder}+{path}"], folder, each={"weight": 1.0})
        ms.merge({**alone, "dtype": "float32"}, tmp_path / f"merged-{path.name}")
        merged.append(tmp_path / f"merged-{path.name}")
    assert torch.allclose(found, expected(space, [folder, *merged], "metagpt"), rtol=1e-6)


def section(models: list[Path], method: str = "task_arithmetic", **tune: Any) -> dict[str, Any]:
    base = None if method == "linear" else models[0]
    return recipe(method, models[1:], base, dtype="float32", tune={"search": "none", **tune})


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_recipe_is_filled_in_without_data_and_without_a_model(
    granularity: str, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesafe.tune.api.MergedModel", None)
    out = tmp_path / "filled.yml"
    made = section(models, init="metagpt", granularity=granularity)
    result = ms.tune(made, out)
    assert result.start is None
    assert json.loads(json.dumps(result.as_dict()))["objective"] is None
    assert "without a search and without data" in summary(result)[0]
    assert "by the rule 'metagpt'" in out.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["filled.yml"]
    space = space_of(models, granularity, "task_arithmetic")
    wanted = expected(space, models, "metagpt")
    filled = CoefficientSpace(ms.plan(out).plan, granularity)
    # six decimals are written
    assert torch.allclose(filled.view(filled.initial(), "weight"), wanted, rtol=0, atol=1e-6)
    ms.merge(out, tmp_path / "merged")


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({}, "weight as the recipe has them, or else 1/2, granularity layer"),
        ({"init": 0.3, "granularity": "lines"}, "weight by 'init', granularity lines"),
        (
            {"init": {"lambda": 0.3}, "coefficients": ["weight", "lambda"]},
            "weight, lambda by 'init', weight as the recipe has them, or else 1/2",
        ),
    ],
)
def test_what_is_written_says_where_it_comes_from(
    tune: dict[str, Any], words: str, models: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "filled.yml"
    result = ms.tune(section(models, **tune), out)
    assert words in out.read_text()
    [told, *_] = summary(result)
    kind = (
        "lines of coefficients over the layers" if "granularity" in tune else "layer coefficients"
    )
    assert f"{kind} of 3 models as they start, without a search and without data" in told


def test_other_coefficients_start_where_they_are_told(models: list[Path], tmp_path: Path) -> None:
    made = section(
        models, coefficients=["weight", "lambda"], granularity="model",
        init={"weight": "nan", "lambda": 0.8},
    )  # fmt: skip
    ms.tune(made, tmp_path / "filled.yml")
    loaded = load_recipe(tmp_path / "filled.yml")
    assert loaded.parameters["lambda"].plain == 0.8
    assert sum(float(e.parameters["weight"].plain) for e in loaded.models) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_a_search_starts_there(models: list[Path], tmp_path: Path) -> None:
    setup = prepare(section(models, init="nan", granularity="layer")).with_statistics(1 << 24)
    wanted = expected(setup.space, models, "nan")
    assert torch.allclose(setup.space.view(setup.start, "weight"), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "lines", "words"),
    [
        ("slerp", ["init: nan"], r":9: 'init: nan' finds weights of task vectors, and 't' is none"),
        (
            "ties",
            ["init: {lambda: metagpt}", "coefficients: [lambda]"],
            ":9: 'init: metagpt' finds weights",
        ),
        ("ties", ["init: {lambda: 0.3}"], ":9: 'init' has 'lambda'.*add it to .*[weight, lambda]"),
        ("ties", ["init: metagtp"], ":9: .*rules nan and metagpt, must be a number"),
        ("ties", ["data: [{path: a, role: safety}]"], ":9: 'search: none' writes .*'data' has no"),
        ("ties", ["front: {points: 3}"], "'front' has no effect"),
        ("ties", ["batch: 3"], "'batch' has no effect"),
        ("ties", ["rate: 3"], ":9: 'tune' has the unknown key 'rate'"),
    ],
)
def test_bad_starts(
    method: str, lines: list[str], words: str, models: list[Path], tmp_path: Path
) -> None:
    base = models[0]
    head = f"merge_method: {method}\nbase_model: {base}\nmodels:\n"
    listed = models[:2] if method == "slerp" else models[1:3]
    head += "".join(f"  - model: {path}\n" for path in listed)
    head += "dtype: float32\n" + "tune:\n  search: none\n"
    path = write_recipe(tmp_path / "r.yml", head + "".join(f"  {line}\n" for line in lines))
    with pytest.raises(RecipeError, match=words):
        prepare(path)


def test_a_method_without_a_base_has_no_task_vectors(models: list[Path], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", section(models, "linear", init="metagpt"))
    with pytest.raises(TuningError, match=r"r.yml:\d+: 'init: metagpt' goes by the norms.*linear"):
        prepare(path)


def test_factors_of_adapters_are_no_task_vectors(tmp_path: Path) -> None:
    base = llama(0, dtype=torch.float32)
    folder = save(tmp_path / "base", base)
    adapters = [save_adapter(tmp_path / f"a{seed}", base, seed) for seed in (1, 2)]
    made = recipe(
        "core_space", [f"{folder}+{path}" for path in adapters], folder,
        tune={"search": "none", "init": "nan"},
    )  # fmt: skip
    path = write_recipe(tmp_path / "r.yml", made)
    with pytest.raises(TuningError, match=r"r.yml:\d+: .*core_space has the factors of adapters"):
        prepare(path)


def test_nan_in_a_model_is_named(tmp_path: Path) -> None:
    base = llama(0, dtype=torch.float32)
    broken = {name: x.clone() for name, x in llama(1, dtype=torch.float32).items()}
    broken["model.norm.weight"][0] = float("nan")
    paths = [save(tmp_path / "base", base), save(tmp_path / "broken", broken)]
    with pytest.raises(NonFiniteError, match=r"broken.*'model.norm.weight'.*has no norm"):
        ms.tune(section(paths, init="nan"), tmp_path / "filled.yml")
    assert not (tmp_path / "filled.yml").exists()
