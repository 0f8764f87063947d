"""Random recipes by mergesafe alone: they are read back as written, and nothing ends in a crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mergesafe
from mergesafe.errors import MergesafeError
from mergesafe.recipe import dump_recipe, load_recipe

from .matrix import save_all
from .recipes import placed, recipes

EXAMPLES = int(os.environ.get("PARITY_EXAMPLES", "100"))
each = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
#: What stands where something else belongs.
JUNK = st.sampled_from(
    [None, True, "", "x", "1e-5", "nan", "a\0b", "base", 0, -1, 7, 1e300, float("nan"),
     float("inf"), [], {}, [[]], [None], [1, "x"], [0, 1], {"x": 1}, {"filter": "mlp"},
     {"value": []}, [{"value": {}}]]
)  # fmt: skip
KEYS = ("merge_method", "models", "slices", "model", "weight", "layer_range", "dtype", "x", "tune",
        "output", "references", "tokenizer_source", "name", "out_dtype", "modules")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("properties")
    save_all(made)
    return made


def refusal_of(recipe: Any) -> str | None:
    """What a plan is refused with."""
    try:
        mergesafe.plan(recipe)
    except MergesafeError as error:
        return str(error)
    return None


def content(recipe: Any) -> tuple[Any, ...]:
    """All that a recipe says but where it says it."""
    return (
        recipe.merge_method, recipe.base_model, recipe.models, recipe.slices, recipe.parameters,
        recipe.dtype, recipe.out_dtype, recipe.keep_float32, recipe.output,
    )  # fmt: skip


@each
@given(recipes())
def test_what_is_written_is_read_alike(folder: Path, recipe: dict[str, Any]) -> None:
    read = load_recipe(placed(recipe, str(folder)))
    path = folder / "written.yml"
    path.write_text(dump_recipe(read), encoding="utf-8")
    again = load_recipe(path)
    assert content(again) == content(read)
    assert dump_recipe(again) == dump_recipe(read)


@each
@given(recipes())
def test_a_recipe_of_the_grammar_has_a_plan(folder: Path, recipe: dict[str, Any]) -> None:
    refusal = refusal_of(placed(recipe, str(folder)))
    # A slice with a base of its own makes an expert of the recipe's base, which has no weight then.
    assert refusal is None or "sum to zero" in refusal or "needs 'weight'" in refusal


@st.composite
def spoilt(draw: st.DrawFn) -> Any:
    """A recipe in which up to three values are other ones, are gone or have another key."""
    recipe: Any = draw(recipes())
    for _ in range(draw(st.integers(1, 3))):
        recipe = draw(_spoilt(recipe))
    return recipe


@st.composite
def _spoilt(draw: st.DrawFn, value: Any) -> Any:
    inner = isinstance(value, dict | list) and value and draw(st.integers(0, 5))
    if not inner:
        return draw(JUNK)
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        changed = [*value]
        changed[at : at + 1] = draw(st.sampled_from([[], [value[at]] * 2, [...]]))
        return [draw(_spoilt(value[at])) if item is ... else item for item in changed]
    key = draw(st.sampled_from(sorted(value)))
    rest = {name: each for name, each in value.items() if name != key}
    way = draw(st.integers(0, 5))
    if way == 0:
        return rest
    if way == 1:
        return {**rest, draw(st.sampled_from(KEYS)): value[key]}
    return {**rest, key: draw(_spoilt(value[key]))}


@each
@given(spoilt())
def test_a_spoilt_recipe_has_a_plan_or_an_error(folder: Path, recipe: Any) -> None:
    """No other exception, and an error says something."""
    refusal = refusal_of(placed(recipe, str(folder)))
    assert refusal is None or refusal.strip()
