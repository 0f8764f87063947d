"""Granularity ``lines``: two numbers for each coefficient, and a line over the layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import read, same_bits

import mergesafe as ms
from mergesafe.recipe.load import load_recipe
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.model.space import CoefficientSpace
from mergesafe.tune.results.tuned import rounded, tuned_text
from tune.models import make_models, plan_of

from .experts import Experts
from .runs import recipe, tuned
from .test_merged_model import batch_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(tmp_path_factory.mktemp("lines"), experts=2)


def space_of(models: list[Path], granularity: str = "lines") -> CoefficientSpace:
    return CoefficientSpace(plan_of("ties", models, {"weight": 0.4, "density": 0.5}), granularity)


def test_a_tensor_has_what_lies_on_the_line_at_its_layer(models: list[Path]) -> None:
    space = space_of(models)
    assert [group.name for group in space.groups] == ["first layer", "last layer"]
    assert space.size == 4
    x = torch.tensor([0.2, 0.8, 1.0, 0.0], dtype=torch.float64)
    expected = {
        "model.layers.0.mlp.up_proj.weight": [0.2, 1.0],
        "model.layers.1.mlp.up_proj.weight": [0.5, 0.5],
        "model.layers.2.input_layernorm.weight": [0.8, 0.0],
        "model.embed_tokens.weight": [0.2, 1.0],
        "model.norm.weight": [0.2, 1.0],
        "lm_head.weight": [0.2, 1.0],
    }
    for name, values in expected.items():
        assert space.per_tensor(x, name)["weight"].tolist() == pytest.approx(values)


def test_it_begins_at_the_line_that_is_nearest_to_the_recipe(models: list[Path]) -> None:
    plan = plan_of("task_arithmetic", models, [{"weight": [0.1, 0.9]}, {"weight": 0.3}])
    space = CoefficientSpace(plan, "lines")
    assert space.initial().tolist() == pytest.approx([0.1, 0.9, 0.3, 0.3])
    bent = plan_of("task_arithmetic", models, [{"weight": [0.0, 0.9, 0.0]}, {"weight": 0.3}])
    first, last, *_ = CoefficientSpace(bent, "lines").initial().tolist()
    # the embedding and the head count with the first layer, where the recipe has 0
    assert 0.0 <= first < last < 0.9


def test_the_gradient_is_that_of_every_layer_on_the_line(models: list[Path]) -> None:
    lines, layers = space_of(models), space_of(models, "layer")
    x = torch.tensor([0.2, 0.8, 0.7, 0.3], dtype=torch.float64)
    names = [group.tensors[0] for group in layers.groups]
    per_layer = torch.stack([lines.per_tensor(x, name)["weight"] for name in names], dim=1)
    with MergedModel(lines.plan, lines, dtype="float32") as merged:
        loss, found = merged.loss_and_grad(batch_of()[0], x)
    with MergedModel(layers.plan, layers, dtype="float32") as merged:
        again, each = merged.loss_and_grad(batch_of()[0], per_layer.flatten())
    assert loss == again
    shares = torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0, 0.0], dtype=torch.float64)
    rows = each.view(2, -1)
    expected = torch.stack([rows @ (1 - shares), rows @ shares], dim=1).flatten()
    assert torch.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("x", [[0.25, 0.75, 1.0, 0.1], [0.5, 0.5, 0.123457, 0.9]])
def test_the_recipe_has_lists_of_two_that_merge_to_the_same_bits(
    x: list[float], models: list[Path], tmp_path: Path
) -> None:
    space = space_of(models)
    at = rounded(space, torch.tensor(x, dtype=torch.float64))
    out = tmp_path / "tuned.yml"
    out.write_text(tuned_text(space.plan.recipe, space, at, "about"))
    written = [entry.parameters["weight"].plain for entry in load_recipe(out).models]
    assert written == [x[0] if x[0] == x[1] else x[:2], x[2:]]
    ms.merge(out, tmp_path / "merged")
    merged = read(tmp_path / "merged")
    with MergedModel(space.plan, space, dtype="float32") as model, model.using(at):
        for name, weight in model._weights.items():
            assert same_bits(weight.make(merged[name].dtype), merged[name]), name


@pytest.mark.parametrize("search", ["gradient", "cmaes", "random"])
def test_searches_find_lines(search: str, experts: Experts, tmp_path: Path) -> None:
    out = tmp_path / "tuned.yml"
    result = tuned(recipe(experts, search=search, granularity="lines", batch=8), out)
    assert result.objective is not None
    assert result.start is not None
    assert result.objective < result.start
    assert result.groups == ("first layer", "last layer")
    assert "granularity lines" in out.read_text()
