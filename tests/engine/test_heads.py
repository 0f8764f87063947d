"""Whether the merged model has a head of its own: the bytes decide, not the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import Tensors, llama, read, recipe, same_bits, save
from transformers import AutoModelForCausalLM

import mergesafe
from mergesafe.architecture.tying import untied
from mergesafe.chat.hf import fold_in
from mergesafe.checkpoint.format.model import open_checkpoint
from mergesafe.errors import CheckpointError

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TIED = {"tie_word_embeddings": True}


def mean(models: list[Path | str], out: Path) -> tuple[Tensors, dict[str, Any], tuple[str, ...]]:
    """Tensors and configuration of the plain average, and what the plan notes."""
    content = recipe("linear", models, each={"weight": 1})
    mergesafe.merge(content, out)
    notes = mergesafe.plan(content).plan.notes
    return read(out), json.loads((out / "config.json").read_text()), notes


def half(*tensors: torch.Tensor) -> torch.Tensor:
    return (sum(each.float() for each in tensors) / len(tensors)).to(tensors[0].dtype)


def with_copy(seed: int) -> Tensors:
    """A tied model that stores its embedding twice."""
    tensors = llama(seed, tied=True)
    return {**tensors, HEAD: tensors[EMBEDDING].clone()}


def test_a_stored_copy_of_the_embedding_is_left_out(tmp_path: Path) -> None:
    models = [save(tmp_path / "a", with_copy(0), TIED), save(tmp_path / "b", with_copy(1), TIED)]
    merged, config, notes = mean(models, tmp_path / "out")
    assert HEAD not in merged
    assert config["tie_word_embeddings"] is True
    assert any(HEAD in note and "equals the input embedding" in note for note in notes)


def test_a_stored_head_that_differs_is_kept(tmp_path: Path) -> None:
    """transformers uses it, whatever config.json says."""
    models = [save(tmp_path / "a", llama(0), TIED), save(tmp_path / "b", llama(1, tied=True), TIED)]
    merged, config, notes = mean(models, tmp_path / "out")
    assert same_bits(merged[HEAD], half(llama(0)[HEAD], llama(1, tied=True)[EMBEDDING]))
    assert config["tie_word_embeddings"] is False
    assert any("head of its own" in note for note in notes)


def test_gemma_with_a_head_of_its_own(tmp_path: Path) -> None:
    """The architecture ties by default and its configuration leaves the flag out."""
    gemma = {"tie_word_embeddings": None, "model_type": "gemma2"}
    models = [save(tmp_path / f"m{i}", llama(i), gemma) for i in range(2)]
    merged, config, _ = mean(models, tmp_path / "out")
    assert same_bits(merged[HEAD], half(llama(0)[HEAD], llama(1)[HEAD]))
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize(("outer", "inner"), [(True, False), (False, True), (True, True)])
def test_both_levels_agree_afterwards(tmp_path: Path, outer: bool, inner: bool) -> None:
    nested = {"tie_word_embeddings": outer, "text_config": {"tie_word_embeddings": inner}}
    models = [save(tmp_path / f"m{i}", llama(i), nested) for i in range(2)]
    merged, config, _ = mean(models, tmp_path / "out")
    assert same_bits(merged[HEAD], half(llama(0)[HEAD], llama(1)[HEAD]))
    assert config["tie_word_embeddings"] is False
    assert config["text_config"]["tie_word_embeddings"] is False


def test_a_flag_inside_alone_is_changed_too(tmp_path: Path) -> None:
    nested = {"tie_word_embeddings": None, "text_config": {**TIED, "hidden_size": 16}}
    models = [save(tmp_path / "tied", llama(0, tied=True), nested), save(tmp_path / "u", llama(1))]
    merged, config, _ = mean(models, tmp_path / "out")
    assert HEAD in merged
    assert config["tie_word_embeddings"] is False
    assert config["text_config"]["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "does not share"),
        ({"tie_word_embeddings": None}, "do not share"),  # a Llama without the flag
        ({"tie_word_embeddings": None, "model_type": "new"}, "nothing says"),
    ],
)
def test_a_model_without_a_head_is_incomplete(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    models = [
        save(tmp_path / "a", llama(0, tied=True), config),
        save(tmp_path / "b", llama(1), {**config, "tie_word_embeddings": False}),
    ]
    with pytest.raises(CheckpointError, match=rf"'{HEAD}' is missing.*{said}"):
        mean(models, tmp_path / "out")


def test_language_models_without_any_head_are_warned_about(tmp_path: Path) -> None:
    """transformers makes a head of random numbers, of them and of their merge."""
    models = [save(tmp_path / f"m{i}", llama(i, tied=True)) for i in range(2)]
    merged, _, _ = mean(models, tmp_path / "out")
    assert HEAD not in merged
    warnings = mergesafe.plan(recipe("linear", models, each={"weight": 1})).plan.warnings
    assert any(f"no model stores the output head '{HEAD}'" in each for each in warnings)


def test_a_tied_model_lends_its_embedding_with_a_note(tmp_path: Path) -> None:
    models = [save(tmp_path / "a", llama(0)), save(tmp_path / "b", llama(1, tied=True), TIED)]
    merged, _, notes = mean(models, tmp_path / "out")
    assert same_bits(merged[HEAD], half(llama(0)[HEAD], llama(1, tied=True)[EMBEDDING]))
    assert any("shares the input embedding" in note and str(models[1]) in note for note in notes)


def test_backbones_without_heads_are_merged(tmp_path: Path) -> None:
    backbone = {"architectures": ["LlamaModel"]}
    models = [save(tmp_path / f"m{i}", llama(i, tied=True), backbone) for i in range(2)]
    merged, config, _ = mean(models, tmp_path / "out")
    assert merged.keys() == llama(0, tied=True).keys()
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("whole", "text", "written"),
    [("gemma3", "gemma3_text", True), ("new_vl", "new_text", True), ("mistral3", "mistral", False)],
)
def test_the_flag_is_written_where_a_default_ties(whole: str, text: str, written: bool) -> None:
    """transformers 4 reads it from the text part, transformers 5 from the whole."""
    config = {"model_type": whole, "text_config": {"model_type": text}}
    flag = {"tie_word_embeddings": False} if written else {}
    assert untied(config) == {**config, "text_config": {"model_type": text, **flag}, **flag}


def test_a_name_that_ends_like_the_heads_is_another_tensor(tmp_path: Path) -> None:
    name = "model.speech_lm_head.weight"
    extra = [{name: torch.full((5, 16), float(i))} for i in (1, 3)]
    models = [save(tmp_path / f"m{i}", {**llama(i, tied=True), **extra[i]}, TIED) for i in range(2)]
    merged, config, _ = mean(models, tmp_path / "out")
    assert merged[name].unique().tolist() == [2.0]
    assert config["tie_word_embeddings"] is True


def adapter_of_the_head(folder: Path) -> Path:
    folder.mkdir()
    prefix = "base_model.model.lm_head.lora_"
    a, b = (
        torch.randn(shape, generator=torch.Generator().manual_seed(5))
        for shape in ((2, 16), (50, 2))
    )
    save_file(
        {f"{prefix}A.weight": a, f"{prefix}B.weight": b}, folder / "adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_of_the_head_unties_a_tied_base(tmp_path: Path) -> None:
    base = save(tmp_path / "base", llama(0, tied=True), TIED)
    adapter = adapter_of_the_head(tmp_path / "adapter")
    merged, config, _ = mean([f"{base}+{adapter}"], tmp_path / "out")
    a, b = read(adapter).values()
    embedding = llama(0, tied=True)[EMBEDDING]
    assert same_bits(merged[EMBEDDING], embedding)
    # bfloat16 keeps eight bits.
    torch.testing.assert_close(
        merged[HEAD].float(), (embedding.float() + 2 * (b @ a)), rtol=2**-8, atol=2**-8
    )
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize("stored", [False, True])
def test_a_model_in_memory_gets_the_same_head(stored: bool, tmp_path: Path) -> None:
    """What is evaluated as base+adapter is what a merge writes of it; a tied base may store the
    head, too.
    """
    tensors = llama(0, tied=True)
    if stored:
        tensors[HEAD] = tensors[EMBEDDING].clone()
    base = save(tmp_path / "base", tensors, TIED)
    adapter = adapter_of_the_head(tmp_path / "adapter")
    merged, _, _ = mean([f"{base}+{adapter}"], tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    fold_in(model, adapter, open_checkpoint(base))
    weights = model.state_dict()
    assert same_bits(weights[EMBEDDING], merged[EMBEDDING])
    assert same_bits(weights[HEAD], merged[HEAD])
    assert not same_bits(weights[HEAD], weights[EMBEDDING])


@pytest.mark.parametrize(("outer", "inner"), [(True, False), (False, True)])
def test_levels_that_contradict_each_other_over_no_head(
    tmp_path: Path, outer: bool, inner: bool
) -> None:
    """A model that stores no head shares its embedding if either level says so; both do then."""
    nested = {"tie_word_embeddings": outer, "text_config": {"tie_word_embeddings": inner}}
    tied = [llama(0, tied=True), llama(1, tied=True)]
    models = [save(tmp_path / f"m{i}", each, nested) for i, each in enumerate(tied)]
    merged, config, _ = mean(models, tmp_path / "out")
    assert HEAD not in merged
    assert config["tie_word_embeddings"] is True
    assert config["text_config"]["tie_word_embeddings"] is True
    untied = save(tmp_path / "untied", llama(2))
    merged, _, _ = mean([models[0], untied], tmp_path / "two")
    assert same_bits(merged[HEAD], half(tied[0][EMBEDDING], llama(2)[HEAD]))
