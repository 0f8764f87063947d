"""dump_recipe: what is written loads again as the same recipe."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergesafe.recipe import Recipe, dump_recipe, load_recipe

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.yml"))


def content(recipe: Recipe) -> tuple[Any, ...]:
    return (
        recipe.merge_method, recipe.base_model, recipe.models, recipe.parameters, recipe.dtype,
        recipe.out_dtype, recipe.tokenizer_source, recipe.name,
    )  # fmt: skip


def reload(recipe: Recipe, folder: Path) -> Recipe:
    path = folder / "dumped.yml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    return load_recipe(path)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_recipes_survive(path: Path, tmp_path: Path):
    recipe = load_recipe(path)
    again = reload(recipe, tmp_path)
    assert content(again) == content(recipe)
    assert dump_recipe(again) == dump_recipe(recipe)


def test_form():
    recipe = load_recipe(Path(__file__).parent / "golden" / "task_arithmetic.yml")
    assert dump_recipe(recipe) == (
        "name: detox\n"
        "merge_method: task_arithmetic\n"
        "base_model: base\n"
        "models:\n"
        "  - model: {model: {path: toxic+loud}, lora: {path: adapters/toxic}}\n"
        "    parameters:\n"
        "      weight: -0.5\n"
        "  - model: helpful+adapters/helpful\n"
        "    parameters:\n"
        "      weight: 1.0\n"
        "parameters:\n"
        "  lambda: [0.5, 1.5]\n"
    )


@pytest.mark.parametrize("number", [1e-05, -3e-07, 2.5e-05, 1e16, 0.5, -1.0, 1e300])
def test_every_reader_of_yaml_takes_numbers_for_numbers(number: float) -> None:
    """PyYAML too, which mergekit reads recipes with: to it ``1e-05`` is text."""
    yaml = pytest.importorskip("yaml")
    each = [{"model": "a", "parameters": {"weight": number}},
            {"model": "b", "parameters": {"weight": [number]}}]  # fmt: skip
    recipe = load_recipe({"merge_method": "linear", "models": each})
    read = yaml.safe_load(dump_recipe(recipe))
    assert [model["parameters"]["weight"] for model in read["models"]] == [number, [number]]


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.isprintable)
words = st.sampled_from(["no", "1e-3", "null", "~", "-", "#x", "a: b", "[", "*", ".nan", "é", " a"])
numbers = st.floats(allow_nan=False, allow_infinity=False)
values = numbers | st.lists(numbers, min_size=1, max_size=4)
entries = st.builds(lambda name, value: {"filter": name, "value": value}, names | words, values)


@settings(deadline=None)  # writes and reads a file
@given(names | words, values | st.lists(entries, min_size=1, max_size=3))
def test_any_text_and_number_survives(
    tmp_path_factory: pytest.TempPathFactory, name: str, weight: Any
):
    model = {"model": {"path": name}, "lora": {"path": name}}
    # not both at once: a document cannot merge its own name
    for keys in ({"name": name, "model": "the model that is merged"}, {"model": model}):
        each = {"model": keys.pop("model"), "parameters": {"weight": weight}}
        recipe = load_recipe({**keys, "merge_method": "linear", "models": [each]})
        assert content(reload(recipe, tmp_path_factory.getbasetemp())) == content(recipe)
