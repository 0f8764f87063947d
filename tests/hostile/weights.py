"""Hostile weights, shards, adapters, and what lies beside a model."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .parts import ADAPTERS, edit, header, model, put

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def index(folder: Path, shards: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))


def split(folder: Path) -> dict[str, str]:
    """Two shards in place of the single file."""
    weights = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(weights)
    listed: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        listed |= dict.fromkeys(part, file)
    return listed


@model("header of a huge size")
def _header_size(folder: Path) -> None:
    put(folder / SINGLE, struct.pack("<Q", 1 << 62) + b"{}")


@model("header torn")
def _header_torn(folder: Path) -> None:
    put(folder / SINGLE, (folder / SINGLE).read_bytes()[:100])


@model("weights cut short")
def _cut(folder: Path) -> None:
    put(folder / SINGLE, (folder / SINGLE).read_bytes()[:-1000])


@model("weights empty")
def _empty(folder: Path) -> None:
    put(folder / SINGLE, b"")


@model("header that overlaps")
def _overlaps(folder: Path) -> None:
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header(folder / SINGLE, {"a": one, "b": one}, bytes(16))


@model("header of shapes without end")
def _shapes(folder: Path) -> None:
    header(
        folder / SINGLE,
        {"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62, 0], "data_offsets": [0, 0]}},
    )


@model("weights a pipe")
def _pipe(folder: Path) -> None:
    (folder / SINGLE).unlink()
    os.mkfifo(folder / SINGLE)


@model("weights without end")
def _endless(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / SINGLE).symlink_to("/dev/zero")


@model("weights that are pickles")
def _pickles(folder: Path) -> None:
    torch.save(load_file(folder / SINGLE), folder / "pytorch_model.bin")
    (folder / SINGLE).unlink()


@model("weights missing")
def _missing(folder: Path) -> None:
    (folder / SINGLE).unlink()


@model("weights of other shapes")
def _other_shapes(folder: Path) -> None:
    weights = load_file(folder / SINGLE)
    weights["lm_head.weight"] = torch.zeros(7, 5)
    save_file(weights, folder / SINGLE, {"format": "pt"})


@model("weights that lack a part")
def _lacking(folder: Path) -> None:
    weights = load_file(folder / SINGLE)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / SINGLE, {"format": "pt"})


@model("weights nan")
def _nan(folder: Path) -> None:
    weights = {
        name: torch.full_like(each, torch.nan) for name, each in load_file(folder / SINGLE).items()
    }
    save_file(weights, folder / SINGLE, {"format": "pt"})


@model("weights infinite")
def _infinite(folder: Path) -> None:
    weights = load_file(folder / SINGLE)
    weights["model.norm.weight"].fill_(float("inf"))
    save_file(weights, folder / SINGLE, {"format": "pt"})


@model("shards elsewhere")
def _elsewhere(folder: Path) -> None:
    listed = split(folder)
    outside = folder.parent / f"{folder.name} outside.safetensors"
    (folder / listed["lm_head.weight"]).rename(outside)
    index(folder, {
        name: f"../{outside.name}" if file == listed["lm_head.weight"] else file
        for name, file in listed.items()
    })  # fmt: skip


@model("shard missing")
def _shard_missing(folder: Path) -> None:
    listed = split(folder)
    (folder / listed["lm_head.weight"]).unlink()
    index(folder, listed)


@model("shards that both have a tensor")
def _both(folder: Path) -> None:
    listed = split(folder)
    first, second = sorted(set(listed.values()))
    put(folder / second, (folder / first).read_bytes())
    index(folder, listed)


@model("index of itself")
def _itself(folder: Path) -> None:
    (folder / SINGLE).unlink()
    index(folder, {"lm_head.weight": INDEX})


@model("index of a link to itself")
def _circle(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / "a.safetensors").symlink_to("a.safetensors")
    index(folder, {"lm_head.weight": "a.safetensors"})


@model("index of nonsense")
def _index_nonsense(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text('{"weight_map": {"a": 7, "b": null}}')


@model("index of a name without end")
def _index_name(folder: Path) -> None:
    (folder / SINGLE).unlink()
    index(folder, {"a": "x" * 5000 + ".safetensors"})


@model("adapter beside the model")
def _adapter_beside(folder: Path) -> None:
    edit(folder / "adapter_config.json", {
        "base_model_name_or_path": "org/other", "peft_type": "LORA", "r": 2,
    })  # fmt: skip


@model("distributed shard beside the model")
def _distributed(folder: Path) -> None:
    put(folder / "shard-00001-model-00001-of-00001.safetensors", b"x")


def adapter(name: str, weights: dict[str, torch.Tensor] | None = None, **keys: Any) -> None:
    """Register an adapter of the sound model; ``weights`` in place of sound ones."""

    def write(folder: Path) -> None:
        module = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
        sound = {f"{module}A.weight": torch.ones(2, 32), f"{module}B.weight": torch.ones(32, 2)}
        save_file(sound if weights is None else weights, folder / "adapter_model.safetensors")
        edit(folder / "adapter_config.json", {
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **keys,
        })  # fmt: skip

    ADAPTERS[f"adapter: {name}"] = write


_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
_B = _A.replace("lora_A", "lora_B")
adapter("rank negative", r=-2)
adapter("rank zero", r=0)
adapter("rank of a billion", r=10**9)
adapter("rank text", r="two")
adapter("alpha nan", lora_alpha=float("nan"))
adapter("alpha of 5,000", lora_alpha=1e300)
adapter("alpha a list", lora_alpha=[1])
adapter("other shapes", {_A: torch.ones(2, 7), _B: torch.ones(32, 2)})
adapter("other ranks", {_A: torch.ones(3, 32), _B: torch.ones(32, 2)})
adapter("half a pair", {_A: torch.ones(2, 32)})
adapter("modules that no model has", {"base_model.model.x.lora_A.weight": torch.ones(2, 2)})
adapter("weights nan", {_A: torch.full((2, 32), torch.nan), _B: torch.ones(32, 2)})
adapter("patterns without end", rank_pattern={".?" * 60 + "X": 2}, alpha_pattern={"(a+)+$": 2})
adapter("another kind", peft_type="OFT")
adapter("base elsewhere", base_model_name_or_path="/etc")
adapter("code of its own", auto_mapping={"base_model_class": "M", "parent_library": "os"})
adapter("targets of nonsense", target_modules=7, modules_to_save=[3])


def _no_weights(folder: Path) -> None:
    edit(folder / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4})


def _torn(folder: Path) -> None:
    _no_weights(folder)
    put(folder / "adapter_model.safetensors", b"\x10\0\0\0\0\0\0\0{")


ADAPTERS["adapter: without weights"] = _no_weights
ADAPTERS["adapter: torn"] = _torn
