"""Core space: what is refused before anything is read, and what is not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import command, llama, recipe, save

import mergesafe as ms
from mergesafe.errors import NonFiniteError

from .core_space_adapters import WEIGHTS_FILE, Adapters, config_of, read_file


@pytest.fixture
def given(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path)


def refused(content: dict[str, Any], folder: Path, *words: str) -> None:
    path = folder / "r.yml"
    path.write_text(json.dumps(content))
    done = command("merge", path, folder / "out")
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert not (folder / "out").exists()


def test_whole_models_are_refused(given: Adapters, tmp_path: Path) -> None:
    other = save(tmp_path / "expert", llama(5))
    content = recipe("core_space", [*given.models, other], given.base, each={"weight": 0.5})
    refused(content, tmp_path, "expert' is a whole model", "core_space merges LoRA adapters")


def test_adapters_of_another_base_are_refused(given: Adapters, tmp_path: Path) -> None:
    other = save(tmp_path / "other", llama(5))
    models = [given.models[0], f"{other}+{given.places[1]}"]
    content = recipe("core_space", models, given.base, each={"weight": 0.5})
    refused(content, tmp_path, f"is an adapter of '{other}'", "of one base")


def test_a_base_with_an_adapter_is_refused(given: Adapters, tmp_path: Path) -> None:
    content = recipe("core_space", given.models[1:], given.models[0], each={"weight": 0.5})
    refused(content, tmp_path, "has an adapter", "name the base alone")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"merge_method": "ties"}, "'output: adapter' is for merges of adapters by their factors"),
        ({"output": "adaptor"}, "did you mean 'adapter'"),
        ({"tokenizer_source": "base"}, "an adapter has no tokenizer"),
        ({"out_dtype": "float8_e4m3fn"}, "an adapter takes float32"),
        ({"merge_method": "core_space(slerp)"}, "slerp merges models, not task vectors"),
        ({"merge_method": "core_space(ties)",
          "parameters": {"trim_scope": "model", "density": 0.5}},
         "compares magnitudes of the whole model"),
    ],
)  # fmt: skip
def test_recipes_that_are_refused(
    given: Adapters, tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    refused(given.recipe(**{"output": "adapter", **keys}) | keys, tmp_path, words)


def test_an_adapter_of_slices_is_refused(given: Adapters, tmp_path: Path) -> None:
    content = given.recipe(output="adapter")
    sources = [{**each, "layer_range": [0, 1]} for each in content.pop("models")]
    refused(
        {**content, "slices": [{"sources": sources}]}, tmp_path, "'output: adapter' with 'slices'"
    )


def test_rank_0_is_refused(given: Adapters, tmp_path: Path) -> None:
    path = given.places[0] / "adapter_config.json"
    path.write_text(json.dumps(config_of(given.places[0]) | {"r": 0}))
    refused(given.recipe(output="adapter"), tmp_path, "adapter_config.json", "r is 0")


def test_other_parts_of_adapters_are_refused(given: Adapters, tmp_path: Path) -> None:
    path = given.places[0] / WEIGHTS_FILE
    name = "base_model.model.model.layers.0.self_attn.o_proj.lora_magnitude_vector"
    save_file(read_file(path) | {name: torch.ones(16)}, path)
    refused(given.recipe(output="adapter"), tmp_path, "DoRA")


def test_names_that_differ_between_adapters_are_refused(given: Adapters, tmp_path: Path) -> None:
    """Each is known by the base's names; the output has one name for a layer."""
    path = given.places[1] / WEIGHTS_FILE
    renamed = {
        n.replace("model.model.model.", "model.model."): x for n, x in read_file(path).items()
    }
    save_file(renamed, path)
    refused(given.recipe(output="adapter"), tmp_path, "one name for it", "'layers.0.mlp")
    ms.merge(given.recipe(), tmp_path / "model")


@pytest.mark.parametrize("output", ["model", "adapter"])
def test_what_is_not_finite_is_named(given: Adapters, tmp_path: Path, output: str) -> None:
    path = given.places[1] / WEIGHTS_FILE
    stored = read_file(path)
    name = next(name for name in stored if name.endswith("lora_B.weight"))
    stored[name][0, 0] = float("nan")
    save_file(stored, path)
    with pytest.raises(
        NonFiniteError, match=r"a1/adapter_model\.safetensors: tensor .*lora_B\.weight"
    ):
        ms.merge(given.recipe("core_space(ties)", output=output), tmp_path / "out")
    ms.merge(given.recipe(output=output), tmp_path / "zero", on_nonfinite="zero")


@pytest.mark.parametrize("output", ["model", "adapter"])
def test_what_is_too_large_is_an_error(given: Adapters, tmp_path: Path, output: str) -> None:
    for place in given.places:
        stored = read_file(place / WEIGHTS_FILE)
        save_file({name: x * 1e25 for name, x in stored.items()}, place / WEIGHTS_FILE)
    refused(
        given.recipe(output=output), tmp_path, "merge method 'core_space'", "holds NaN or infinity",
        "smaller weights",
    )  # fmt: skip
