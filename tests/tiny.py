"""Tiny Llama-like checkpoints, recipes and runs of the command, for end-to-end tests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import in_process
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
    "vocab_size": 50,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
#: The installed command, beside the interpreter that runs the tests.
COMMAND = str(Path(sys.executable).with_name("mergesafe"))
#: Methods of deltas to a base, each with every parameter that it takes away from its default.
FAMILY: dict[str, dict[str, Any]] = {
    "task_arithmetic": {},
    "ties": {"density": 0.4},
    "dare_linear": {"density": 0.6},
    "dare_ties": {"density": 0.6},
    "breadcrumbs": {"density": 0.5, "gamma": 0.05},
    "breadcrumbs_ties": {"density": 0.5, "gamma": 0.05},
}


def llama(
    seed: int, *, tied: bool = False, dtype: torch.dtype = torch.bfloat16, vocab: int = 50
) -> Tensors:
    """Random weights of the model that :data:`CONFIG` describes, ``lm_head`` unless tied."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.05).to(dtype)

    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    tensors = {"model.embed_tokens.weight": random(vocab, hidden)}
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows in (("q", hidden), ("k", hidden // 2), ("v", hidden // 2), ("o", hidden)):
            tensors[f"{layer}self_attn.{name}_proj.weight"] = random(rows, hidden)
        tensors[f"{layer}mlp.gate_proj.weight"] = random(inner, hidden)
        tensors[f"{layer}mlp.up_proj.weight"] = random(inner, hidden)
        tensors[f"{layer}mlp.down_proj.weight"] = random(hidden, inner)
        tensors[f"{layer}input_layernorm.weight"] = 1 + random(hidden)
        tensors[f"{layer}post_attention_layernorm.weight"] = 1 + random(hidden)
    tensors["model.norm.weight"] = 1 + random(hidden)
    if not tied:
        tensors["lm_head.weight"] = random(vocab, hidden)
    return tensors


def save(
    folder: Path,
    tensors: Tensors,
    config: Mapping[str, Any] | None = None,
    *,
    shards: int = 1,
) -> Path:
    """Write a checkpoint with the safetensors package; ``config`` updates :data:`CONFIG`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def save_adapter(folder: Path, base: Tensors, seed: int, *, rank: int = 3) -> Path:
    """A LoRA adapter for the attention and MLP outputs of every layer."""
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name, tensor in base.items():
        module = name.removesuffix(".weight")
        if module.endswith(("o_proj", "down_proj")):
            rows, columns = tensor.shape
            prefix = f"base_model.model.{module}.lora_"
            tensors[f"{prefix}A.weight"] = torch.randn(rank, columns, generator=generator) * 0.1
            tensors[f"{prefix}B.weight"] = torch.randn(rows, rank, generator=generator) * 0.1
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def recipe(
    method: str,
    models: Sequence[Path | str],
    base: Path | str | None = None,
    *,
    each: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    **keys: Any,
) -> dict[str, Any]:
    """A recipe as a mapping; ``each`` holds the parameters of the models, or one for all."""
    per_model = [dict(each)] * len(models) if isinstance(each, Mapping) else list(each)
    entries: list[dict[str, Any]] = [{"model": str(model)} for model in models]
    for entry, parameters in zip(entries, per_model, strict=False):
        entry["parameters"] = dict(parameters)
    head = {} if base is None else {"base_model": str(base)}
    return {"merge_method": method, "models": entries, **head, **keys}


def write_recipe(path: Path, content: Mapping[str, Any] | str) -> Path:
    """``content`` as a file: YAML text, or a mapping written as JSON, which is YAML."""
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


def read(folder: Path) -> Tensors:
    """Every tensor of a checkpoint, read with the safetensors package."""
    tensors: Tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(shard))
    return tensors


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of every file of a checkpoint, but for the backend's name
    in the manifest, which says by whom and not what was merged.
    """
    sha = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        if path.name == "mergesafe-manifest.json":
            content = re.sub(rb'"backend": "\w+"', b"", content, count=1)
        sha.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return sha.hexdigest()


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal type, shape and bytes, NaN included."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    return bool(torch.equal(bits(ours), bits(theirs)))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def command(*arguments: object, cwd: Path | str | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``mergesafe ARGUMENTS`` to its end, within this process."""
    return in_process.run(*arguments, cwd=cwd)


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``mergesafe ARGUMENTS`` to its end as users do, where the process is what is tested."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options
    )


@contextmanager
def signals(action: signal.Handlers) -> Iterator[None]:
    """Processes that are started meanwhile ignore SIGINT, SIGTERM and SIGHUP, or do not.

    They inherit it from whoever runs the tests: under nohup, or in the background of a script,
    signals are ignored.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, action) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leftovers(folder: Path) -> list[str]:
    """Hidden files in ``folder``: what an unfinished merge would leave behind."""
    return [name for name in os.listdir(folder) if name.startswith(".")]
