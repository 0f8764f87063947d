"""The same values as mergekit, where it can be imported (skipped elsewhere)."""

from pathlib import Path
from typing import Any

import pytest

from mergesafe.methods.registry import get_method
from mergesafe.recipe import Recipe, dump_recipe, load_recipe, settings_for

config = pytest.importorskip("mergekit.config")
resolver = pytest.importorskip("mergekit.parameter_resolver")
registry = pytest.importorskip("mergekit.merge_methods.registry")
yaml = pytest.importorskip("yaml")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
#: elect_count uses parameters that mergekit does not have.
RECIPES = sorted(path for path in GOLDEN.glob("*.yml") if path.stem != "elect_count")
TENSORS = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "lm_head.weight",
)

numbers = st.floats(-1e6, 1e6) | st.integers(-9, 9)
values = numbers | st.lists(numbers, min_size=1, max_size=7)
entries = st.builds(
    lambda name, value: {"value": value} if name is None else {"filter": name, "value": value},
    st.sampled_from([None, "*", "mlp", "layers", "o_proj.weight", "absent"]),
    values,
)
written = values | entries | st.lists(entries, min_size=1, max_size=4)


def ours(value: Any) -> Any:
    recipe = load_recipe(
        {
            "merge_method": "task_arithmetic",
            "base_model": "b",
            "models": [{"model": "a"}],
            "parameters": {"lambda": value},
        }
    )
    return recipe.parameters["lambda"]


@settings(max_examples=300, deadline=None)
@given(written, st.sampled_from(TENSORS), st.floats(0.0, 1.0))
def test_evaluate_setting(value: Any, tensor: str, t: float):
    """Bit for bit, on random scalars, gradients and filters."""
    parsed = config.MergeConfiguration.model_validate(
        {"merge_method": "linear", "models": [{"model": "a"}], "parameters": {"x": value}}
    ).parameters["x"]
    assert ours(value).at(tensor, t) == config.evaluate_setting(tensor, parsed, t, validate=float)


def theirs(text: str, tensor: str, t: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """mergekit's shared and per-model values; models in the order of the recipe."""
    parsed = config.MergeConfiguration.model_validate(yaml.safe_load(text))
    by_model = {entry.model: entry.parameters for entry in parsed.models}
    by_model.setdefault(parsed.base_model, None)
    by_model.pop(None, None)
    shared, per_input = resolver.resolve_parameters(
        registry.get(parsed.merge_method).spec,
        tensor_name=tensor,
        inputs=dict.fromkeys(by_model, tensor),
        sources=lambda model: [by_model.get(model), parsed.parameters],
        base_model=parsed.base_model,
        t=t,
    )
    required = get_method(parsed.merge_method).inputs.base == "required"
    order = [model for model in by_model if not (required and model == parsed.base_model)]
    return shared, [per_input[model] for model in order]


def assert_same(recipe: Recipe, text: str) -> None:
    for tensor in TENSORS:
        for t in (0.0, 1 / 3, 0.5, 0.9, 1.0):
            found = settings_for(recipe, tensor, t)
            shared, per_input = theirs(text, tensor, t)
            assert {name: found.shared[name] for name in shared} == shared
            assert [{name: row[name] for name in other} for row, other in zip(
                found.inputs, per_input, strict=True)] == per_input  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_golden_recipes_mean_the_same(path: Path):
    assert_same(load_recipe(path), path.read_text())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_dumped_recipes_mean_the_same_to_mergekit(path: Path):
    recipe = load_recipe(path)
    assert_same(recipe, dump_recipe(recipe))
