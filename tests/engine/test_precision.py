"""Tensors that 16-bit models keep in float32 stay so whatever the recipe's types are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, llama, read, recipe, same_bits, save

import mergesafe
from mergesafe import methods
from mergesafe.errors import RecipeError
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.write import dump_recipe

BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
DECAY = "model.layers.2.mixer.A_log"
MATRIX = "model.layers.0.mlp.up_proj.weight"
NOTE = (
    f"2 tensors ({BIAS}, {DECAY}) are kept in float32, since every input stores float32 there, "
    "beside 16-bit matrices; 'keep_float32: false' in the recipe casts every tensor"
)


def mixture(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """A llama with a router's bias near 20, whose differences bfloat16 cannot hold, and a decay."""
    generator = torch.Generator().manual_seed(seed)
    return {
        **llama(seed, dtype=dtype),
        BIAS: 20 + 1e-3 * torch.randn(64, generator=generator),
        DECAY: torch.randn(16, generator=generator),
    }


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / f"m{i}", mixture(i)) for i in range(3)]


def merged(models: list[Path], **keys: Any) -> Tensors:
    out = models[0].parent / "out"
    content = recipe("linear", models[:2], each={"weight": 1}, **keys)
    notes = mergesafe.merge(content, out, overwrite=True).notes
    assert (NOTE in notes) == (keys.get("keep_float32", True) is True)
    return read(out)


@pytest.mark.parametrize(
    ("keys", "matrices"),
    [
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float16"}, torch.float16),
        ({"out_dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float32", "out_dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "bfloat16", "out_dtype": "float32"}, torch.float32),
    ],
)
def test_exact_in_float32(keys: dict[str, str], matrices: torch.dtype, models: list[Path]) -> None:
    found = merged(models, **keys)
    for name in (BIAS, DECAY):
        one, two = mixture(0)[name], mixture(1)[name]
        assert same_bits(found[name], one * 0.5 + two * 0.5)
    assert len(found[BIAS].unique()) > 32
    assert {found[name].dtype for name in llama(0)} == {matrices}


def test_statistics_are_taken_in_float32(models: list[Path], tmp_path: Path) -> None:
    each = {"weight": 0.5, "density": 0.4}
    content = recipe("ties", models[1:], models[0], each=each, dtype="bfloat16")
    mergesafe.merge(content, tmp_path / "out")
    base, *experts = (mixture(i)[BIAS] for i in range(3))
    expected = methods.ties(base, experts, weight=[0.5, 0.5], density=0.4)
    assert same_bits(read(tmp_path / "out")[BIAS], expected)


def test_a_float32_base_of_16_bit_experts(models: list[Path], tmp_path: Path) -> None:
    base = save(tmp_path / "full", mixture(0, torch.float32))
    each = {"weight": 1.0}
    content = recipe("task_arithmetic", models[1:2], base, each=each, dtype="bfloat16")
    mergesafe.merge(content, tmp_path / "out")
    found = read(tmp_path / "out")
    assert found[BIAS].dtype == torch.float32
    assert found[MATRIX].dtype == torch.bfloat16


def test_float32_models_are_cast_as_a_whole(tmp_path: Path) -> None:
    models = [save(tmp_path / f"m{i}", mixture(i, torch.float32)) for i in range(2)]
    content = recipe("linear", models, each={"weight": 1}, dtype="bfloat16")
    assert mergesafe.merge(content, tmp_path / "out").notes == ()
    assert {tensor.dtype for tensor in read(tmp_path / "out").values()} == {torch.bfloat16}


def test_a_tensor_that_one_model_stores_in_16_bits_is_cast(tmp_path: Path) -> None:
    rounded = {**mixture(1), BIAS: mixture(1)[BIAS].bfloat16()}
    models = [save(tmp_path / "a", mixture(0)), save(tmp_path / "b", rounded)]
    content = recipe("linear", models, each={"weight": 1}, dtype="bfloat16")
    mergesafe.merge(content, tmp_path / "out")
    found = read(tmp_path / "out")
    assert found[BIAS].dtype == torch.bfloat16
    assert found[DECAY].dtype == torch.float32


def test_the_recipe_may_cast_all(models: list[Path]) -> None:
    found = merged(models, dtype="bfloat16", keep_float32=False)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    content = recipe("linear", models, each={"weight": 1}, dtype="bfloat16", keep_float32=False)
    (note,) = mergesafe.plan(content).plan.notes
    assert note == (
        f"2 tensors ({BIAS}, {DECAY}) are cast from float32 to bfloat16, since the recipe says "
        "'keep_float32: false'"
    )


def test_without_types_there_is_nothing_to_say(models: list[Path]) -> None:
    content = recipe("linear", models, each={"weight": 1})
    made = mergesafe.plan(content).plan
    assert made.notes == ()
    assert {task.out_dtype for task in made.tasks} == {"BF16", "F32"}


@pytest.mark.parametrize("shards", [1, 2])
def test_config_names_the_type_of_the_matrices(shards: int, tmp_path: Path) -> None:
    models = [
        save(tmp_path / f"m{i}", mixture(i, torch.float16), {"dtype": "float16"}, shards=shards)
        for i in range(2)
    ]
    mergesafe.merge(recipe("linear", models, each={"weight": 1}, dtype="bfloat16"), tmp_path / "o")
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "torch_dtype" in config


def test_keep_float32_is_true_or_false(models: list[Path]) -> None:
    content = recipe("linear", models, each={"weight": 1}, keep_float32="maybe")
    with pytest.raises(
        RecipeError, match="'keep_float32' must be true or false, got the text 'maybe'"
    ):
        load_recipe(content)


def test_a_dump_keeps_the_key(models: list[Path]) -> None:
    content = recipe("linear", models, each={"weight": 1})
    assert "keep_float32" not in dump_recipe(load_recipe(content))
    text = dump_recipe(load_recipe(content | {"keep_float32": False}))
    assert "\nkeep_float32: false\n" in text
