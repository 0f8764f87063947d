"""Precedence, required parameters, sharing and speed of settings_for."""

import copy
import pickle
import time
from typing import Any

import pytest

from mergesafe.errors import RecipeError
from mergesafe.recipe import Recipe, load_recipe, settings_for

MLP = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"
ONLY_MLP = {"filter": "mlp", "value": 0.2}


def ties(model: dict[str, Any], shared: dict[str, Any]) -> Recipe:
    return load_recipe(
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": [{"model": "a", "parameters": {"weight": 1, **model}}],
            "parameters": shared,
        }
    )


@pytest.mark.parametrize(
    ("model", "shared", "tensor", "expected"),
    [
        ({}, {}, MLP, 1.0),
        ({}, {"density": 0.7}, MLP, 0.7),
        ({"density": 0.4}, {}, MLP, 0.4),
        ({"density": 0.4}, {"density": 0.7}, MLP, 0.4),
        ({"density": ONLY_MLP}, {"density": 0.7}, MLP, 0.2),
        ({"density": ONLY_MLP}, {"density": 0.7}, NORM, 0.7),
        ({"density": ONLY_MLP}, {}, NORM, 1.0),
        ({"density": ONLY_MLP}, {"density": [ONLY_MLP]}, NORM, 1.0),
        ({"density": [ONLY_MLP, {"value": 0.3}]}, {"density": 0.7}, NORM, 0.3),
        ({"density": [ONLY_MLP, {"filter": "*", "value": 0.3}]}, {"density": 0.7}, NORM, 0.3),
        ({"density": {"filter": None, "value": 0.3}}, {"density": 0.7}, NORM, 0.3),
    ],
)
def test_precedence(model: dict[str, Any], shared: dict[str, Any], tensor: str, expected: float):
    """Model entry, then the recipe's parameters, then the default; a missed filter passes on."""
    assert settings_for(ties(model, shared), tensor, 0.0).column("density") == [expected]


@pytest.mark.parametrize(
    ("model", "shared", "expected"), [({}, {}, True), ({}, {"normalize": False}, False)]
)
def test_precedence_of_shared_parameters(
    model: dict[str, Any], shared: dict[str, Any], expected: bool
):
    assert settings_for(ties(model, shared), MLP, 0.0).shared["normalize"] is expected


def test_missing_required_parameter_names_parameter_model_tensor_and_line(tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_text(
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- model: b\n"
    )
    with pytest.raises(RecipeError) as caught:
        settings_for(load_recipe(path), NORM, 0.0)
    assert str(caught.value) == (
        f"{path}:4: linear needs 'weight' of model 'b' (tensor 'model.norm.weight'); "
        "set it under 'parameters'"
    )


def test_missing_shared_parameter_points_at_the_method(tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_text("models: [model: a, model: b]\nbase_model: a\nmerge_method: slerp\n")
    with pytest.raises(RecipeError, match=r"recipe.yml:3: slerp needs 't' \(tensor 'model.norm"):
        settings_for(load_recipe(path), NORM, 0.0)


def test_unmatched_filter_of_a_required_parameter(tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_text(
        "merge_method: linear\nmodels:\n- model: a\n  parameters:\n"
        "    weight: {filter: mlp, value: 1}\n"
    )
    recipe = load_recipe(path)
    assert settings_for(recipe, MLP, 0.0).column("weight") == [1.0]
    with pytest.raises(RecipeError, match=r":5: no filter of 'weight' of model 'a' matches tensor"):
        settings_for(recipe, NORM, 0.0)


def test_equal_values_share_one_object():
    constant = ties({}, {"density": 0.7})
    assert settings_for(constant, MLP, 0.0) is settings_for(constant, NORM, 1.0)
    filtered = ties({"density": ONLY_MLP}, {})
    other = MLP.replace("layers.0", "layers.9")
    assert settings_for(filtered, MLP, 0.0) is settings_for(filtered, other, 0.5)
    assert settings_for(filtered, MLP, 0.0) is not settings_for(filtered, NORM, 0.0)


def test_many_filters_give_the_same_values_as_few():
    filters = [{"filter": f"layers.{i}.", "value": i / 100} for i in range(100)]
    recipe = ties({"density": filters}, {})
    for i in (0, 7, 63, 64, 99):
        assert settings_for(recipe, f"model.layers.{i}.x", 0.0).column("density") == [i / 100]
    assert settings_for(recipe, NORM, 0.0).column("density") == [1.0]


def test_recipes_and_settings_survive_pickling():
    recipe = ties({"density": [0.1, 0.9]}, {})
    for copied in (pickle.loads(pickle.dumps(recipe)), copy.deepcopy(recipe)):
        assert settings_for(copied, MLP, 0.5) == settings_for(recipe, MLP, 0.5)
    found = settings_for(recipe, MLP, 0.5)
    assert pickle.loads(pickle.dumps(found)) == found


def test_14000_tensors_take_less_than_300_ms():
    models = [
        {
            "model": f"m{i}",
            "parameters": {
                "weight": [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}],
                "density": [0.3, 0.5, 0.9],
            },
        }
        for i in range(8)
    ]
    names = [(f"model.layers.{i % 80}.mlp.e{i}.weight", (i % 80) / 79) for i in range(14_000)]
    times = []
    for _ in range(3):  # the best of three, each with nothing cached
        recipe = load_recipe({"merge_method": "ties", "base_model": "base", "models": models})
        start = time.process_time()
        for name, t in names:
            settings_for(recipe, name, t)
        times.append(time.process_time() - start)
    assert min(times) < 0.3
