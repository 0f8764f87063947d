"""LoRA adapters: the delta equals PEFT's own merge; everything else is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from mergesafe.checkpoint.format.lora import open_adapter
from mergesafe.checkpoint.format.model import Checkpoint, open_checkpoint
from mergesafe.errors import CheckpointError

PREFIX = "base_model.model."
MODULE = "model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    llama().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def base(base_path: Path) -> Checkpoint:
    return open_checkpoint(base_path)


def write_adapter(
    path: Path,
    tensors: dict[str, torch.Tensor] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """An adapter of rank 2 for one projection, 16 to 16, with changes."""
    if tensors is None:
        tensors = {
            f"{PREFIX}{MODULE}.lora_A.weight": torch.ones(2, 16),
            f"{PREFIX}{MODULE}.lora_B.weight": torch.ones(16, 2),
        }
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(CONFIG | (config or {})))
    return path


def fails(path: Path, base: Checkpoint, *messages: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_adapter(path, base)
    for message in messages:
        assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ADAPTERS = {
    "all linear": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
    "one module": LoraConfig(r=3, lora_alpha=1, target_modules=["down_proj"]),
    "rank-stabilised": LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj"]),
    "head": LoraConfig(r=2, lora_alpha=5, target_modules=["lm_head", "v_proj"]),
    "patterns": LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "k_proj", "gate_proj"],
        # "self_attn" matches no module: a pattern must match up to the end of the name.
        rank_pattern={
            "self_attn": 7,
            "q_proj": 2,
            r"layers\.1\.self_attn\.k_proj": 3,
            "^model.*gate_proj": 5,
        },
        alpha_pattern={r"model.layers.[01].mlp.gate_proj": 3, "layers.0.self_attn.q_proj": 11},
    ),
    "patterns, rank-stabilised": LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj"], rank_pattern={"q_proj": 9}
    ),
}


@pytest.mark.parametrize("config", ADAPTERS.values(), ids=ADAPTERS)
def test_delta_equals_the_merge_of_peft(
    tmp_path: Path, base_path: Path, base: Checkpoint, config: LoraConfig
) -> None:
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base_path), config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    adapter = open_adapter(tmp_path, base)
    expected = (
        PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base_path), tmp_path)
        .merge_and_unload()
        .state_dict()
    )
    weights = load_file(base_path / "model.safetensors")
    deltas = load_file(tmp_path / "adapter_model.safetensors")
    assert len(adapter.pairs) * 2 == len(deltas)
    changed = {name for name in weights if not torch.equal(weights[name], expected[name])}
    assert changed == adapter.pairs.keys()
    for name, pair in adapter.pairs.items():
        assert pair.a.shape[0] == pair.b.shape[1] == pair.rank
        merged = weights[name] + pair.scale * (deltas[pair.b.name] @ deltas[pair.a.name])
        torch.testing.assert_close(merged, expected[name], rtol=1e-6, atol=1e-6)


def test_pair(tmp_path: Path, base: Checkpoint) -> None:
    adapter = open_adapter(write_adapter(tmp_path), base)
    assert adapter.path == tmp_path
    (name, pair), = adapter.pairs.items()  # fmt: skip
    assert name == f"{MODULE}.weight"
    assert (pair.rank, pair.scale, pair.a.shape, pair.b.shape) == (2, 2.0, (2, 16), (16, 2))
    assert isinstance(pair.rank, int)


def test_names_with_an_adapter_name(tmp_path: Path, base: Checkpoint) -> None:
    tensors = {
        f"{PREFIX}{MODULE}.lora_A.default.weight": torch.ones(2, 16),
        f"{PREFIX}{MODULE}.lora_B.default.weight": torch.ones(16, 2),
    }
    assert list(open_adapter(write_adapter(tmp_path, tensors), base).pairs) == [f"{MODULE}.weight"]


def test_fractional_alpha(tmp_path: Path, base: Checkpoint) -> None:
    write_adapter(tmp_path, config={"lora_alpha": 0.5, "use_rslora": True})
    (pair,) = open_adapter(tmp_path, base).pairs.values()
    assert pair.scale == 0.5 / math.sqrt(2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', only 'LORA' is supported"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is True: DoRA scales the merged columns"),
        ({"new_trick": {"a": 1}}, "'new_trick' is {'a': 1}: mergesafe does not know this setting"),
        ({"bias": "lora_only"}, "bias is 'lora_only', expected 'none'"),
        ({"lora_bias": True}, "lora_bias is True: B has a bias"),
        ({"trainable_token_indices": [1]}, "token embeddings were fine-tuned"),
        ({"layer_replication": [[0, 2]]}, "layers of the base are repeated"),
        ({"target_parameters": ["experts.w"]}, "parameters that are not linear layers"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA changes only some positions"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which may change the base"),
        ({"init_lora_weights": ["x"]}, "init_lora_weights is ['x']"),
        ({"r": 0}, "r is 0, expected a positive integer"),
        ({"r": True}, "r is True, expected a positive integer"),
        ({"r": 2.0}, "r is 2.0, expected a positive integer"),
        ({"r": None}, "r is None, expected a positive integer"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', expected a positive number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 10**300}, "lora_alpha is 1"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern is -1, expected a positive integer"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern is ['q_proj'], expected an object"),
        (
            {"rank_pattern": {"q_proj(": 1}},
            "the pattern 'q_proj(', which is no regular expression (missing )",
        ),
        (
            {"rank_pattern": {"a{99999999999}": 1}},
            "the pattern 'a{99999999999}', which is no regular",
        ),
        ({"rank_pattern": {"q_proj": 3}}, "lora_A.weight' has shape [2, 16], expected [3, 16]"),
    ],
)
def test_configuration_is_refused(
    tmp_path: Path, base: Checkpoint, config: dict[str, Any], message: str
) -> None:
    write_adapter(tmp_path, config=config)
    fails(tmp_path, base, f"{tmp_path / 'adapter_'}", message)


def one(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Any:
    return {f"{PREFIX}{name}": torch.ones(shape, dtype=dtype)}


A = one(f"{MODULE}.lora_A.weight", (2, 16))
B = one(f"{MODULE}.lora_B.weight", (16, 2))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "the adapter holds no tensors"),
        (A, "lora_A.weight' has no lora_B to go with it"),
        (B, "lora_B.weight' has no lora_A to go with it"),
        (A | B | {"extra": torch.ones(1)}, "tensor 'extra' is not base_model.model.MODULE"),
        (A | B | one("extra", (1,)), f"tensor '{PREFIX}extra' is a whole tensor that the base"),
        (
            one("model.embed_tokens.lora_embedding_A", (2, 32)),
            "adapts an embedding, whose delta is (B @ A) transposed",
        ),
        (A | B | one("model.embed_tokens.weight", (32, 15)), "has shape [32, 15] and stands in"),
        (A | B | one(f"{MODULE}.weight", (16, 16)), "is whole, and its module has lora_A and"),
        (A | B | one("model.norm.weight", (15,)), "in place of 'model.norm.weight' of shape [16]"),
        (A | B | one("model.norm.weight", (16,), torch.float64), "is F64, expected BF16 or F16"),
        (A | B | one(f"{MODULE}.lora_magnitude_vector", (16,)), "belongs to DoRA"),
        (
            A | B | one(f"{MODULE}.lora_A.other.weight", (2, 16)),
            "are the same side of one pair: the file mixes several adapters",
        ),
        (
            one("model.none.lora_A.weight", (2, 16)) | one("model.none.lora_B.weight", (16, 2)),
            "adapts 'model.none.weight', which the base",
        ),
        (A | one(f"{MODULE}.lora_B.weight", (16, 3)), "has shape [16, 3], expected [16, 2]"),
        (A | one(f"{MODULE}.lora_B.weight", (15, 2)), "has shape [15, 2], expected [16, 2]"),
        (B | one(f"{MODULE}.lora_A.weight", (2, 15)), "has shape [2, 15], expected [2, 16]"),
        (B | one(f"{MODULE}.lora_A.weight", (2, 16, 1, 1)), "has shape [2, 16, 1, 1], expected"),
        (
            A | one(f"{MODULE}.lora_B.weight", (16, 2), torch.float64),
            "is F64, expected BF16 or F16 or F32",
        ),
        (
            one("model.norm.lora_A.weight", (2, 16)) | one("model.norm.lora_B.weight", (16, 2)),
            "adapts 'model.norm.weight' of shape [16], expected two dimensions",
        ),
    ],
)
def test_tensors_are_refused(
    tmp_path: Path, base: Checkpoint, tensors: dict[str, torch.Tensor], message: str
) -> None:
    write_adapter(tmp_path, tensors)
    fails(tmp_path, base, f"{tmp_path / 'adapter_model.safetensors'}: ", message)


def test_missing_files(tmp_path: Path, base: Checkpoint) -> None:
    fails(tmp_path / "none", base, "no such file or folder")
    fails(tmp_path, base, "this is not a LoRA adapter: it has no adapter_config.json")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    fails(tmp_path, base, "the adapter has no adapter_model.safetensors")
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    fails(tmp_path, base, "adapter_model.bin is a pickle")
