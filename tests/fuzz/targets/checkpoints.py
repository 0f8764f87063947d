"""Folders of models: safetensors, indexes, adapters, configurations, whole plans, vetting."""

from __future__ import annotations

from pathlib import Path

import mergesafe
from fuzz import parts
from fuzz.target import target
from mergesafe.architecture.settings import contradictions, differences, mismatch
from mergesafe.architecture.tying import is_tied
from mergesafe.checkpoint.format.lora import open_adapter
from mergesafe.checkpoint.format.model import CONFIG_LIMIT, open_checkpoint
from mergesafe.checkpoint.format.safetensors import read_header
from mergesafe.checkpoint.places.location import read_json_file

_NAMES = (
    "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight",
)  # fmt: skip
RECIPE = """merge_method: linear
models:
  - {model: base, parameters: {weight: 0.5}}
  - {model: one, parameters: {weight: 0.5}}
"""


def header(names: tuple[str, ...] = _NAMES) -> bytes:
    """Of tensors of 4 times 4 numbers."""
    entries = [
        f'"{name}": {{"dtype": "BF16", "shape": [4, 4], "data_offsets": [{32 * i}, {32 * i + 32}]}}'
        for i, name in enumerate(names)
    ]
    return ("{" + ", ".join(entries) + "}").encode()


@target("safetensors", ".safetensors", binary=True)
def safetensors(data: bytes, folder: Path) -> int:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    tensors, _ = read_header(path)
    return len(tensors)


@target("index", ".parts")
def index(data: bytes, folder: Path) -> int:
    parts.unpack(data, folder)
    return len(open_checkpoint(folder).tensors)


@target("adapter", ".parts")
def adapter(data: bytes, folder: Path) -> int:
    base = folder / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(parts.weights(header()))
    (base / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    (folder / "adapter").mkdir()
    parts.unpack(data, folder / "adapter")
    found = open_adapter(folder / "adapter", open_checkpoint(base))
    return len(found.pairs)


@target("config", ".parts")
def config(data: bytes, folder: Path) -> str:
    from mergesafe.safety.vet.settings import check_config, check_generation

    parts.unpack(data, folder)
    one, two = (
        read_json_file(path, CONFIG_LIMIT) if path.is_file() else {}
        for path in (folder / "one" / "config.json", folder / "base" / "config.json")
    )
    found = [str(is_tied(one)), str(mismatch(one, two, "one", "two"))]
    found += [str(each) for each in differences(one, two)]
    found += contradictions(one)
    found += [str(each) for each in check_config(one, two)]
    found += [str(each) for each in check_generation(folder / "one", folder / "base", one)]
    "".join(found).encode("utf-8", "surrogatepass")
    return str(len(found))


def _models(data: bytes, folder: Path) -> None:
    """The base and a parent, whole but for what ``data`` puts in their places."""
    for name in ("base", "one"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(parts.weights(header()))
    parts.unpack(data, folder)


@target("plan", ".parts")
def plan(data: bytes, folder: Path) -> int:
    _models(data, folder)
    recipe = folder / "recipe.yml"
    recipe.write_text(RECIPE)
    return len(mergesafe.plan(recipe, threads=1, memory="64MiB").plan.tasks)


@target("merge", ".parts")
def merge(data: bytes, folder: Path) -> str:
    """Whatever a plan lets pass is merged, and the output is a model that can be read again."""
    _models(data, folder)
    recipe = folder / "recipe.yml"
    recipe.write_text(RECIPE)
    out = folder / "out"
    mergesafe.merge(recipe, out, threads=1, memory="64MiB", device="cpu")
    for name in ("config.json", "generation_config.json"):
        if (out / name).is_file():
            read_json_file(out / name, CONFIG_LIMIT)
    return str(len(open_checkpoint(out).tensors))


@target("vet", ".parts")
def vet(data: bytes, folder: Path) -> str:
    _models(data, folder)
    found = mergesafe.vet(
        folder / "one", folder / "base", behaviour=False, memory="64MiB", threads=1
    )
    return str(len(found.unfit))


@target("verify", ".parts")
def verify(data: bytes, folder: Path) -> str:
    parts.unpack(data, folder)
    return str(mergesafe.verify(folder, threads=1).tensors)
