"""Models of many architectures as transformers writes them, merged by both (`make parity`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, read

import mergesafe

from .compare import TOLERANCE
from .peer import Mergekit

transformers = pytest.importorskip("transformers")

LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_hidden_layers": 2, "vocab_size": 30,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
HEAD_DIM = {**LLAMA, "head_dim": 8}
#: The prefix of the classes, what the model is for, and its configuration.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2": ("ForCausalLM", LLAMA), "Qwen3": ("ForCausalLM", HEAD_DIM),
    "Mistral": ("ForCausalLM", LLAMA), "Gemma": ("ForCausalLM", HEAD_DIM),
    "Gemma2": ("ForCausalLM", HEAD_DIM), "Phi": ("ForCausalLM", LLAMA | {"num_key_value_heads": 2}),
    "Phi3": ("ForCausalLM", LLAMA), "Starcoder2": ("ForCausalLM", LLAMA),
    "StableLm": ("ForCausalLM", LLAMA), "Olmo2": ("ForCausalLM", LLAMA),
    "Granite": ("ForCausalLM", LLAMA), "Glm": ("ForCausalLM", HEAD_DIM),
    "Exaone4": ("ForCausalLM", LLAMA), "SmolLM3": ("ForCausalLM", LLAMA),
    "GPT2": ("LMHeadModel", {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 30,
                             "n_positions": 32}),
    "Roberta": ("ForMaskedLM", LLAMA),
    "DistilBert": ("ForMaskedLM", {"dim": 16, "hidden_dim": 24, "n_heads": 2, "n_layers": 2,
                                   "vocab_size": 30, "max_position_embeddings": 32}),
    "Mamba": ("ForCausalLM", {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2,
                              "vocab_size": 30}),
    "OPT": ("ForCausalLM", {"hidden_size": 16, "ffn_dim": 24, "num_attention_heads": 2,
                            "num_hidden_layers": 2, "vocab_size": 30,
                            "max_position_embeddings": 32, "word_embed_proj_dim": 16}),
    "Cohere": ("ForCausalLM", LLAMA), "GPTNeoX": ("ForCausalLM", LLAMA),
    "Bert": ("ForMaskedLM", LLAMA),
    "T5": ("ForConditionalGeneration", {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2,
                                        "num_decoder_layers": 2, "num_heads": 2, "vocab_size": 30}),
    "Mixtral": ("ForCausalLM", {**LLAMA, "num_local_experts": 2}),
    "Qwen3Moe": ("ForCausalLM", {**HEAD_DIM, "num_experts": 2, "num_experts_per_tok": 1,
                                 "moe_intermediate_size": 8}),
}  # fmt: skip
#: mergekit's table names a tensor that these models do not store.
REFUSED = ("Cohere", "GPTNeoX", "Bert", "T5")
#: mergekit's table does not know them, and it takes their last norm and head for a beginning.
UNKNOWN = ("Glm", "Exaone4", "SmolLM3", "OPT")
#: mergekit writes the experts of a layer in one tensor; transformers stores them one by one.
MIXTURES = ("Mixtral", "Qwen3Moe")
#: transformers refuses mergekit's configuration of a stack: ``layer_types`` keeps its old length.
BY_LAYER = ("Qwen2", "Qwen3", "Gemma2")


def saved(name: str, folder: Path) -> list[str]:
    """A base and two experts."""
    suffix, keys = MODELS[name]
    config = getattr(transformers, f"{name}Config")(**keys)
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = getattr(transformers, name + suffix)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder / str(seed))
        models.append(str(folder / str(seed)))
    return models


def ours(recipe: dict[str, Any], out: Path) -> Tensors:
    mergesafe.merge(recipe, out)
    return read(out)


def differing(one: Tensors, other: Tensors) -> set[str]:
    """The tensors of both that are not equal."""
    return {
        name
        for name in one.keys() & other.keys()
        if float((one[name].double() - other[name].double()).abs().max())
        > TOLERANCE * float(other[name].abs().max())
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_whole_models(name: str, mergekit: Mergekit, tmp_path_factory: Any) -> None:
    folder: Path = tmp_path_factory.mktemp(name)
    base, *experts = saved(name, folder)
    recipe = {
        "merge_method": "ties", "base_model": base, "models": [{"model": m} for m in experts],
        "parameters": {"weight": 0.5, "density": 0.5},
    }  # fmt: skip
    merged, reason = ours(recipe, folder / "ours"), mergekit.merge(recipe, folder / "theirs")
    stored = set(read(Path(base)))
    assert merged.keys() == stored
    if name in REFUSED:
        assert "required but not present" in str(reason)
        return
    assert reason is None
    theirs = read(folder / "theirs")
    assert (theirs.keys() == stored) == (name not in MIXTURES)
    assert not differing(merged, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in MODELS if n not in (*REFUSED, *MIXTURES)])
def test_stacks(name: str, mergekit: Mergekit, tmp_path_factory: Any) -> None:
    folder: Path = tmp_path_factory.mktemp(name)
    first, last, _ = saved(name, folder)
    places = ((first, [0, 2]), (last, [1, 2]))
    slices = [{"sources": [{"model": model, "layer_range": place}]} for model, place in places]
    recipe = {"merge_method": "passthrough", "slices": slices}
    merged, reason = ours(recipe, folder / "ours"), mergekit.merge(recipe, folder / "theirs")
    if name in BY_LAYER:
        assert "num_hidden_layers" in str(reason)
        return
    assert reason is None
    theirs, end, begin = read(folder / "theirs"), read(Path(last)), read(Path(first))
    # What only mergesafe writes is the head of a tied model: the last model's embedding.
    assert theirs.keys() <= merged.keys()
    wrong = differing(merged, theirs)
    assert bool(wrong) == (name in UNKNOWN)
    assert all(torch.equal(theirs[n], begin[n]) and torch.equal(merged[n], end[n]) for n in wrong)
