"""Groups, places in the vector, the recipe's values and bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from mergesafe.errors import ArgumentError, TuningError
from mergesafe.tune.model.space import CoefficientSpace, Label
from tune.models import make_models, plan_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_models(tmp_path_factory.mktemp("models"), experts=2)


@pytest.mark.parametrize(
    ("granularity", "groups"),
    [
        ("model", ["model"]),
        ("layer", ["model.embed_tokens", *(f"model.layers.{i}" for i in range(3)), "model.norm",
                   "lm_head"]),
        ("block:2", ["model.embed_tokens", "model.layers.0-1", "model.layers.2", "model.norm",
                     "lm_head"]),
    ],
)  # fmt: skip
def test_groups_follow_the_granularity(
    models: list[Path], granularity: str, groups: list[str]
) -> None:
    plan = plan_of("task_arithmetic", models, {"weight": 0.4})
    space = CoefficientSpace(plan, granularity)
    assert [group.name for group in space.groups] == groups
    assert sorted(name for group in space.groups for name in group.tensors) == sorted(
        task.name for task in plan.tasks
    )
    assert space.size == 2 * len(groups)


def test_with_tensors_every_tensor_is_a_group(models: list[Path]) -> None:
    plan = plan_of("task_arithmetic", models, {"weight": 0.4})
    space = CoefficientSpace(plan, "tensor")
    assert {group.tensors for group in space.groups} == {(task.name,) for task in plan.tasks}


def test_the_vector_holds_a_block_by_name_then_expert_then_group(models: list[Path]) -> None:
    plan = plan_of("ties", models, {"weight": 0.4, "density": 0.5})
    space = CoefficientSpace(plan, "layer", ["weight", "density", "lambda"])
    n = len(space.groups)
    x = torch.arange(space.size).double()
    assert space.slices == {
        "weight": slice(0, 2 * n), "density": slice(2 * n, 4 * n), "lambda": slice(4 * n, 5 * n),
    }  # fmt: skip
    assert space.view(x, "density")[1].tolist() == [*range(3 * n, 4 * n)]
    assert space.view(x, "lambda").shape == (1, n)
    assert space.labels[n + 2] == Label("weight", 1, "model.layers.1")
    assert space.labels[-1] == Label("lambda", None, "lm_head")
    row = space.per_tensor(x, "model.layers.1.mlp.up_proj.weight")
    assert {name: values.tolist() for name, values in row.items()} == {
        "weight": [2, n + 2], "density": [2 * n + 2, 3 * n + 2], "lambda": [4 * n + 2],
    }  # fmt: skip
    settings = space.settings(x, "model.layers.1.mlp.up_proj.weight")
    assert settings.column("weight") == [2, n + 2]
    assert settings.shared["lambda"] == 4 * n + 2
    assert settings.shared["normalize"] is True
    assert not space.differentiable


def test_it_begins_at_the_recipes_values(models: list[Path]) -> None:
    gradient = {"weight": [0.0, 1.0]}
    filtered = {"weight": [{"filter": "mlp", "value": 0.8}, {"value": 0.2}]}
    plan = plan_of("task_arithmetic", models, [gradient, filtered])
    space = CoefficientSpace(plan, "layer")
    first, second = space.view(space.initial(), "weight")
    assert first.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 0.0, 0.0])
    # Of a layer's elements 3 * 16 * 40 are the mlp's, 3 * 16 * 16 the attention's, 2 * 16 norms.
    mlp, rest = 3 * 16 * 40, 3 * 16 * 16 + 2 * 16
    assert second[1].item() == pytest.approx((0.8 * mlp + 0.2 * rest) / (mlp + rest))
    assert space.initial(0.3).tolist() == [0.3] * space.size
    assert space.initial({"weight": 2.0}).tolist() == [1.0] * space.size  # the upper bound


def test_tensors_that_all_models_share_have_no_coefficient(
    models: list[Path], tmp_path: Path
) -> None:
    adapter = tiny.save_adapter(tmp_path / "adapter", tiny.read(models[0]), 1)
    pair = [models[0], f"{models[0]}+{adapter}"]
    space = CoefficientSpace(plan_of("task_arithmetic", pair, {"weight": 1.0}), "tensor")
    assert {group.name.rpartition(".")[0].rpartition(".")[2] for group in space.groups} == {
        "o_proj", "down_proj",
    }  # fmt: skip
    assert "model.norm.weight" in space.fixed
    assert space.group_of("model.norm.weight") is None
    # A sum whose weights do not add up to 1 scales what is shared.
    whole = plan_of("linear", pair, {"weight": 0.4}, parameters={"normalize": False})
    assert not CoefficientSpace(whole, "tensor").fixed
    with pytest.raises(TuningError, match="no tensor differs"):
        CoefficientSpace(plan_of("linear", pair[:1], {"weight": 1.0}), "layer")


def test_bad_arguments(models: list[Path]) -> None:
    plan = plan_of("ties", models, {"weight": 0.4, "density": 0.5})
    with pytest.raises(ArgumentError, match=r"granularity 'layers' is unknown.*block:K"):
        CoefficientSpace(plan, "layers")
    with pytest.raises(ArgumentError, match="unknown"):
        CoefficientSpace(plan, f"block:{'9' * 5000}")
    with pytest.raises(ArgumentError, match="did you mean 'density'"):
        CoefficientSpace(plan, "layer", ["densty"])
    with pytest.raises(ArgumentError, match=r"bounds of 'weight' are \[1.0, 0.0\]"):
        CoefficientSpace(plan, "layer", bounds={"weight": (1.0, 0.0)})
    with pytest.raises(ArgumentError, match=r"within \[0, 1\]"):
        CoefficientSpace(plan, "layer", ["density"], {"density": (0.0, 2.0)})
    with pytest.raises(ArgumentError, match="not tuned"):
        CoefficientSpace(plan, "layer", bounds={"density": (0.0, 1.0)})
    copy = plan_of("linear", models[:2], {"weight": 0.4})
    with pytest.raises(ArgumentError, match="no coefficient 't' to tune"):
        CoefficientSpace(copy, "layer", ["t"])
