"""Every tensor of every input is accounted for; tied heads; what config.json says afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from safetensors.torch import save_file
from tiny import Tensors, llama, read, recipe, same_bits, save, save_adapter

import mergesafe
from mergesafe.errors import CheckpointError

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"
TIED = {"tie_word_embeddings": True}


def mean(models: list[Path | str], out: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and configuration of the plain average."""
    mergesafe.merge(recipe("linear", models, each={"weight": 1}), out)
    return read(out), json.loads((out / "config.json").read_text())


def test_a_tensor_that_only_one_model_has_is_an_error(family: Family) -> None:
    for model in family.models:
        tensors = read(model)
        save_file({**tensors, "extra": torch.ones(1)}, model / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"\('extra'\) is missing (here|there)"):
            mean(list(family.models), family.folder / "out")
        save_file(tensors, model / "model.safetensors")


def test_recomputed_buffers_are_dropped_with_a_note(family: Family) -> None:
    tensors = {**llama(1), INV_FREQ: torch.ones(4)}
    save_file(tensors, family.experts[0] / "model.safetensors")
    content = recipe("linear", family.models, each={"weight": 1})
    notes = mergesafe.plan(content).plan.notes
    assert [note for note in notes if INV_FREQ in note and "dropped" in note] == list(notes)
    mergesafe.merge(content, family.folder / "out")
    assert read(family.folder / "out").keys() == llama(0).keys()


def test_buffers_that_every_model_stores_are_kept(family: Family) -> None:
    for seed, model in enumerate(family.models):
        save_file({**llama(seed), INV_FREQ: torch.ones(4)}, model / "model.safetensors")
    merged, _ = mean(list(family.models), family.folder / "out")
    assert merged[INV_FREQ].tolist() == [1.0] * 4


# --- tied heads ----------------------------------------------------------------------------------


def test_tied_models_stay_tied(tmp_path: Path) -> None:
    models = [save(tmp_path / f"m{i}", llama(i, tied=True), TIED) for i in range(2)]
    merged, config = mean(models, tmp_path / "out")
    assert HEAD not in merged
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize("tied_first", [True, False])
def test_tied_and_untied_models_give_an_untied_one(tied_first: bool, tmp_path: Path) -> None:
    tied, untied = llama(0, tied=True), llama(1)
    models = [save(tmp_path / "tied", tied, TIED), save(tmp_path / "untied", untied)]
    merged, config = mean(models if tied_first else models[::-1], tmp_path / "out")
    expected = (tied[EMBEDDING].float() + untied[HEAD].float()) / 2
    assert same_bits(merged[HEAD], expected.bfloat16())
    assert config["tie_word_embeddings"] is False


def test_untied_model_without_a_head_is_incomplete(tmp_path: Path) -> None:
    models = [save(tmp_path / "a", llama(0, tied=True)), save(tmp_path / "b", llama(1))]
    with pytest.raises(CheckpointError, match=rf"{HEAD}.*missing"):
        mean(models, tmp_path / "out")


def test_adapters_on_tied_models(tmp_path: Path) -> None:
    base = save(tmp_path / "base", llama(0, tied=True), TIED)
    adapter = save_adapter(tmp_path / "adapter", llama(0, tied=True), 1)
    merged, config = mean([base, f"{base}+{adapter}"], tmp_path / "out")
    assert HEAD not in merged
    assert config["tie_word_embeddings"] is True
    changed = {name for name, x in llama(0, tied=True).items() if not same_bits(merged[name], x)}
    assert {name.split(".")[-2] for name in changed} == {"o_proj", "down_proj"}


def test_nested_configuration_is_untied_too(tmp_path: Path) -> None:
    nested = {"tie_word_embeddings": None, "text_config": {**TIED, "hidden_size": 16}}
    models = [save(tmp_path / "tied", llama(0, tied=True), nested), save(tmp_path / "u", llama(1))]
    merged, config = mean(models, tmp_path / "out")
    assert HEAD in merged
    assert config["tie_word_embeddings"] is False
    assert config["text_config"] == {"tie_word_embeddings": False, "hidden_size": 16}


# --- config.json ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_configuration_follows_the_output_type(key: str, tmp_path: Path) -> None:
    models = [save(tmp_path / f"m{i}", llama(i), {key: "bfloat16"}) for i in range(2)]
    content = recipe("linear", models, each={"weight": 1}, out_dtype="float16")
    mergesafe.merge(content, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config[key] == "float16"
    assert {tensor.dtype for tensor in read(tmp_path / "out").values()} == {torch.float16}


def test_configuration_comes_from_the_base(family: Family) -> None:
    for i, model in enumerate(family.models):
        save(model, llama(i), {"bos_token_id": i})
    each = {"weight": 0.5}
    contents = {
        "task_arithmetic": recipe("task_arithmetic", family.experts, family.base, each=each),
        "slerp": recipe("slerp", family.models[:2], family.experts[0], parameters={"t": 0.5}),
        "linear": recipe("linear", family.models, each=each),
        "linear with a base": recipe("linear", family.models, family.experts[1], each=each),
    }
    found = {}
    for name, content in contents.items():
        mergesafe.merge(content, family.folder / "out", overwrite=True)
        config = json.loads((family.folder / "out" / "config.json").read_text())
        found[name] = config["bos_token_id"]
    assert found == {"task_arithmetic": 0, "slerp": 1, "linear": 0, "linear with a base": 2}


def test_settings_that_change_what_weights_mean_are_compared(family: Family) -> None:
    save(family.experts[1], llama(2), {"rope_theta": 5e5})
    save(family.base, llama(0), {"rope_theta": 1e4})
    warnings = mergesafe.plan(recipe("linear", family.models, each={"weight": 1})).plan.warnings
    assert len(warnings) == 1
    assert "rope_theta" in warnings[0]
    assert str(family.experts[1]) in warnings[0]
