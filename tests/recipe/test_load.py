"""Forms that load: numbers, booleans, mappings, bases, warnings, paths, imports."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mergesafe.errors import RecipeError
from mergesafe.recipe import ModelRef, Recipe, load_recipe, settings_for

LINEAR = {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]}


def write(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yml"
    path.write_text(text)
    return load_recipe(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0), ("-2", -2.0), ("+.5", 0.5), ("1.", 1.0), ("0.25", 0.25), ("1e-3", 0.001),
        ("1E3", 1000.0), ("1.5e+2", 150.0), ('"1e-3"', 0.001), ("'0.5'", 0.5), ("0", 0.0),
        ("00.5", 0.5), ("-0.0", 0.0), ("5e-324", 5e-324),
    ],
)  # fmt: skip
def test_numbers(text: str, value: float, tmp_path: Path):
    recipe = write(
        tmp_path, f"merge_method: linear\nmodels: [model: a]\nparameters: {{weight: {text}}}\n"
    )
    assert settings_for(recipe, "x", 0.0).column("weight") == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("yes", True), ("on", True), ("'true'", True),
     ("false", False), ("FALSE", False), ("No", False), ("off", False)],
)  # fmt: skip
def test_booleans(text: str, value: bool, tmp_path: Path):
    recipe = write(
        tmp_path,
        "merge_method: linear\nmodels: [model: a]\nparameters:\n"
        f"  weight: 1\n  normalize: {text}\n",
    )
    assert settings_for(recipe, "x", 0.0).shared["normalize"] is value


def test_null_means_absent(tmp_path: Path):
    recipe = write(
        tmp_path,
        "merge_method: linear\nbase_model: null\ndtype: ~\nslices:\nchat_template: null\n"
        "tokenizer_source:\nparameters:\nmodels:\n- {model: a, parameters: }\n",
    )
    assert (recipe.base_model, recipe.dtype, recipe.tokenizer_source) == (None, None, None)
    assert recipe.parameters == {}
    assert recipe.models[0].parameters == {}


def test_base_forms():
    """The base is excluded from experts, first for slerp, and found under another spelling."""

    def inputs(method: str, base: str | None, *models: str) -> list[str]:
        recipe = load_recipe(
            {"merge_method": method, "base_model": base, "models": [{"model": m} for m in models]}
        )
        return [ref.text for ref in recipe.inputs]

    assert inputs("ties", "b", "a", "b", "c") == ["a", "c"]
    assert inputs("ties", "b", "a", "c") == ["a", "c"]
    assert inputs("ties", "./b/", "a", "b") == ["a"]
    assert inputs("ties", "b", "b+lora") == ["b+lora"]
    assert inputs("slerp", "b", "a", "b") == ["b", "a"]
    assert inputs("slerp", "b", "a") == ["b", "a"]
    assert inputs("linear", "b", "a", "b") == ["a", "b"]
    assert inputs("linear", None, "a", "b") == ["a", "b"]
    assert inputs("passthrough", None, "a") == ["a"]


# --- warnings -------------------------------------------------------------------------------------


def test_parameters_of_the_base_warn(tmp_path: Path):
    text = "merge_method: ties\nbase_model: b\nmodels:\n- {model: a, parameters: {weight: 1}}\n"
    assert write(tmp_path, text + "- model: b\n").warnings == ()
    (warning,) = write(tmp_path, text + "- {model: b, parameters: {weight: 1}}\n").warnings
    assert warning == (
        f"{tmp_path}/recipe.yml:5: the parameters of model 'b' have no effect: it is the base, "
        "which has no task vector"
    )


def test_parameters_without_effect_warn_once(tmp_path: Path):
    recipe = write(
        tmp_path,
        "merge_method: task_arithmetic\nbase_model: b\nmodels:\n"
        "- {model: a, parameters: {weight: 1, density: 0.5}}\n"
        "- {model: c, parameters: {weight: 1, density: 0.5}}\n"
        "parameters: {int8_mask: true}\n",
    )
    assert [w.split(": ", 1)[1] for w in recipe.warnings] == [
        "'density' is accepted but has no effect for task_arithmetic",
        "'int8_mask' is accepted but has no effect for task_arithmetic",
    ]
    assert recipe.warnings[0].startswith(f"{tmp_path}/recipe.yml:4: ")


@pytest.mark.parametrize("first", ["{value: 1}", '{filter: "*", value: 1}', "{filter: , value: 1}"])
def test_filters_after_an_unconditional_entry_warn(first: str, tmp_path: Path):
    recipe = write(
        tmp_path,
        "merge_method: linear\nmodels: [model: a]\nparameters:\n  weight:\n"
        f"  - {first}\n  - {{filter: mlp, value: 2}}\n",
    )
    (warning,) = recipe.warnings
    assert warning.startswith(f"{tmp_path}/recipe.yml:6: 'weight': entries from here on are never")
    assert settings_for(recipe, "mlp", 0.0).column("weight") == [1.0]


def test_tokenizer_of_a_base_that_is_not_named_warns():
    (warning,) = load_recipe({**LINEAR, "tokenizer_source": "base"}).warnings
    assert "'tokenizer_source: base' without a 'base_model' takes the first model, 'a'" in warning
    recipe = load_recipe({**LINEAR, "tokenizer_source": "./a"})
    assert (recipe.tokenizer_source, recipe.warnings) == ("a", ())


# --- mappings -------------------------------------------------------------------------------------


def test_a_mapping_has_a_dump_and_no_lines():
    recipe = load_recipe({**LINEAR, "dtype": "bf16", "parameters": {"weight": (0, 1)}})
    assert (recipe.source, recipe.folder) == (None, Path.cwd())
    assert recipe.models[0].line is None
    assert recipe.text == (
        "merge_method: linear\nmodels:\n  - model: a\n    parameters:\n      weight: 1.0\n"
        "parameters:\n  weight: [0.0, 1.0]\ndtype: bfloat16\n"
    )


def test_paths_are_accepted_as_models(tmp_path: Path):
    recipe = load_recipe({"merge_method": "passthrough", "models": [{"model": tmp_path}]})
    assert recipe.inputs == (ModelRef(str(tmp_path)),)


def nested() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["models"] = data
    return data


def wide() -> list[Any]:
    data: list[Any] = []
    for _ in range(20):
        data = [data] * 9
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "recipe: 'merge_method' is missing"),
        ({1: 2}, "recipe: the recipe has the key 1; keys must be text"),
        ({"merge_method": b"ties"}, "recipe: the recipe, 'merge_method' has a value of type bytes"),
        (nested(), "nested deeper than 32 levels"),
        ({"models": wide()}, "more than 60000 values"),
        ({**LINEAR, "parameters": {"weight": float("nan")}}, "recipe: 'weight' must be finite"),
        ({**LINEAR, "parameters": {"weight": 10**400}}, "recipe: 'weight' must be finite"),
        ({**LINEAR, "parameters": {"weight": True}}, "a number, got the boolean true"),
        ({**LINEAR, "parameters": {"normalize": 2}}, "must be true or false, got the number 2"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_errors_of_mappings(data: dict[Any, Any], message: str):
    with pytest.raises(RecipeError) as caught:
        load_recipe(data)
    assert message in str(caught.value)
    assert caught.value.line is None


# --- paths ----------------------------------------------------------------------------------------


def test_relative_paths_prefer_the_current_directory(tmp_path: Path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "both").mkdir(parents=True)
    (there / "both").mkdir(parents=True)
    (there / "only").mkdir()
    monkeypatch.chdir(here)
    assert ModelRef("both").resolve(there) == (Path("both"), None)
    assert ModelRef("only").resolve(there) == (there / "only", None)
    assert ModelRef("absent", "both").resolve(there) == (there / "absent", Path("both"))
    assert ModelRef("/x", "../y").resolve(there) == (Path("/x"), there / "../y")


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert ModelRef("~/m").resolve(Path("/r")) == (Path("/home/someone/m"), None)
    assert ModelRef("~/m").key == ModelRef("/home/someone/m").key


def test_folder_is_absolute(tmp_path: Path, monkeypatch):
    write(tmp_path, "merge_method: passthrough\nmodels: [model: a]\n")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipe.yml")
    assert (recipe.source, recipe.folder) == (Path("recipe.yml"), tmp_path)


# --- speed ----------------------------------------------------------------------------------------


def test_import_is_light():
    """Neither tensors nor typed-schema libraries: the command line starts fast."""
    code = (
        "import sys, mergesafe.recipe\n"
        "heavy = {'torch', 'numpy', 'transformers', 'pydantic', 'msgspec'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_loading_takes_milliseconds():
    golden = Path(__file__).parent / "golden" / "ties.yml"
    times = []
    for _ in range(5):
        start = time.process_time()
        load_recipe(golden)
        times.append(time.process_time() - start)
    assert min(times) < 0.03


CARD = """\
weights: &weights {density: 0.5}
merge_method: ties
base_model: base
models:
- model: {path: a, lora: b}
  layer_range: [0, 32]
  parameters: {<<: *weights, weight: 1, normalize: true, t: 0.5}
parameters:
  normalize: 1.0
  density: [{only: [q_proj, k_proj], value: 0.2}, 0.9]
  embed_slerp: true
random_seed: 7
"""


def test_what_model_cards_say_and_mergekit_passes_over(tmp_path: Path):
    path = tmp_path / "card.yml"
    path.write_text(CARD)
    recipe = load_recipe(path)
    assert [warning.removeprefix(f"{path}:") for warning in recipe.warnings] == [
        "12: 'random_seed' has no effect in a recipe, as in mergekit: give --seed N",
        "6: 'layer_range' has no effect under 'models', as in mergekit: whole models are merged. "
        "List the layers as 'sources' of 'slices' to merge some",
        "7: 'normalize' has no effect under model 'a+b': it holds for the whole merge. Move it to "
        "the recipe's own 'parameters'",
        "7: 't' is no parameter of ties and has no effect; it is one of slerp, nearswap",
        "11: 'embed_slerp' is no parameter of ties and has no effect",
    ]
    assert recipe.parameters["normalize"].plain is True
    assert recipe.parameters["density"].plain == [
        {"filter": "q_proj", "value": 0.2}, {"filter": "k_proj", "value": 0.2}, {"value": 0.9}
    ]  # fmt: skip
    assert recipe.models[0].parameters["density"].plain == 0.5


def test_an_unknown_key_without_shared_values_is_an_error(tmp_path: Path):
    path = tmp_path / "card.yml"
    path.write_text(CARD.replace("*weights", "{density: 0.5}"))
    with pytest.raises(RecipeError, match=":1: unknown key 'weights'"):
        load_recipe(path)
