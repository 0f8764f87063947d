"""Bad checkpoints: exit status 2, one paragraph that names the file, and no output."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from safetensors.torch import save_file
from tiny import CONFIG, Tensors, command, llama, recipe, save, save_adapter, write_recipe

from .helpers import merge_refused, refused

NAME = "model.layers.1.mlp.up_proj.weight"
HEAD = "lm_head.weight"


@pytest.fixture
def ties(family: Family) -> Path:
    content = recipe("ties", family.experts, family.base, each={"weight": 0.5, "density": 0.5})
    return write_recipe(family.folder / "ties.yml", content)


def shard(model: Path) -> Path:
    return model / "model.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply ``change`` to the header of a safetensors file; the data stays as it is."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


# --- files -----------------------------------------------------------------------------------


def test_truncated_file(ties: Path, family: Family) -> None:
    path = shard(family.experts[0])
    path.write_bytes(path.read_bytes()[:-1])
    merge_refused(ties, words=(path, "cut off", "download"))


def test_header_longer_than_the_file(ties: Path, family: Family) -> None:
    path = shard(family.experts[0])
    path.write_bytes(struct.pack("<Q", 10**6) + path.read_bytes()[8:])
    merge_refused(ties, words=(path, "1,000,000", "download"))


def test_header_of_exabytes(ties: Path, family: Family) -> None:
    path = shard(family.experts[0])
    path.write_bytes(struct.pack("<Q", 2**63) + path.read_bytes()[8:])
    merge_refused(ties, words=(path, "100,000,000"))


def test_header_that_is_not_json(ties: Path, family: Family) -> None:
    path = shard(family.experts[0])
    path.write_bytes(struct.pack("<Q", 8) + b"{not js}")
    merge_refused(ties, words=(path, "not valid JSON", "download"))


def test_empty_file(ties: Path, family: Family) -> None:
    path = shard(family.experts[0])
    path.write_bytes(b"")
    merge_refused(ties, words=(path, "0 bytes", "download"))


def test_git_lfs_pointer(ties: Path, family: Family) -> None:
    path = shard(family.experts[0])
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    merge_refused(ties, words=(path, "git lfs pull"))


def test_overlapping_tensors(ties: Path, family: Family) -> None:
    def overlap(header: dict[str, Any]) -> None:
        size = header[NAME]["data_offsets"][1] - header[NAME]["data_offsets"][0]
        header[NAME]["data_offsets"] = [0, size]

    path = shard(family.experts[1])
    rewrite(path, overlap)
    merge_refused(ties, words=(path, NAME, "overlaps"))


def test_gap_between_tensors(ties: Path, family: Family) -> None:
    path = shard(family.experts[1])
    rewrite(path, lambda header: header.pop(NAME))
    merge_refused(ties, words=(path, "gap of"))


def test_shape_that_overflows(ties: Path, family: Family) -> None:
    path = shard(family.experts[1])
    rewrite(path, lambda header: header[NAME].update(shape=[2**40, 2**40]))
    merge_refused(ties, words=(path, NAME, "overflows"))


def test_shape_that_disagrees_with_the_bytes(ties: Path, family: Family) -> None:
    path = shard(family.experts[1])
    rewrite(path, lambda header: header[NAME].update(shape=[40, 15]))
    merge_refused(ties, words=(path, NAME, "1,280", "1,200"))


def test_unknown_dtype(ties: Path, family: Family) -> None:
    path = shard(family.experts[1])
    rewrite(path, lambda header: header[NAME].update(dtype="BF17"))
    merge_refused(ties, words=(path, NAME, "BF17", "BF16"))


# --- folders and indexes -----------------------------------------------------------------------


def test_missing_folder(ties: Path, family: Family) -> None:
    family.experts[0].rename(family.folder / f"{family.experts[0].name}s")
    merge_refused(
        ties, words=(family.experts[0], "no such file or folder", "Did you mean", f"{ties}:")
    )


@pytest.mark.parametrize("missing", ["exprt0", "./exprt0", "expert0+adaptr", "in/exprt0"])
def test_a_misspelt_model_from_the_current_directory(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe lies in a folder of its own, which has nothing of that name, and a file that is
    called alike; ``in/exprt0`` may be a model of the Hub.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("expert0", "in/expert0"):
        save(tmp_path / name, llama(0))
    save_adapter(tmp_path / "adapter", {}, 0)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "exprt0.yml").touch()
    (tmp_path / "recipes" / "xprts").mkdir()
    file = write_recipe(
        tmp_path / "recipes" / "r.yml", recipe("linear", [missing], parameters={"weight": 1})
    )
    hint = {"expert0+adaptr": "adapter", "in/exprt0": "in/expert0"}.get(missing, "expert0")
    merge_refused(file, words=("no such file or folder", f"Did you mean {hint}?", f"{file}:"))


def test_a_model_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    file = write_recipe(
        tmp_path / "recipes" / "r.yml", recipe("linear", ["gone"], parameters={"weight": 1})
    )
    merge_refused(file, words=(tmp_path / "recipes" / "gone", "the current directory has nothing"))


def test_a_revision_of_a_folder(ties: Path, family: Family) -> None:
    text = ties.read_text().replace(str(family.experts[0]), f"{family.experts[0]}@main")
    ties.write_text(text)
    merge_refused(ties, words=(f"{family.experts[0]} is there", "leave '@main'", f"{ties}:"))


def test_folder_of_pickles(ties: Path, family: Family) -> None:
    shard(family.experts[0]).rename(family.experts[0] / "pytorch_model.bin")
    merge_refused(ties, words=(family.experts[0], "pytorch_model.bin", "Convert"))


def test_index_that_leaves_its_folder(ties: Path, family: Family) -> None:
    model = save(family.folder / "sharded", llama(1), shards=2)
    index = model / "model.safetensors.index.json"
    weight_map = dict.fromkeys(llama(1), "../base/model.safetensors")
    index.write_text(json.dumps({"weight_map": weight_map}))
    write_recipe(ties, recipe("linear", [family.base, model], each={"weight": 1}))
    merge_refused(ties, words=(index, "../base/model.safetensors", "may not leave"))


def test_missing_models_are_reported_together(family: Family) -> None:
    """In the order of the lines, each once, whatever else is wrong with one of them."""
    lines = [
        "merge_method: ties",
        f"base_model: {family.folder}/nowhere",
        "models:",
        f"  - {{model: {family.folder}/gone, parameters: {{weight: 1, density: 1}}}}",
        f"  - {{model: {family.base}, parameters: {{weight: 1, density: 1}}}}",
        f"  - {{model: {family.base}+{family.folder}/lost, parameters: {{weight: 1, density: 1}}}}",
    ]
    path = write_recipe(family.folder / "r.yml", "\n".join(lines))
    done = command("plan", path)
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert len(told) == 3
    for error, name, line in zip(told, ("nowhere", "gone", "lost"), (2, 4, 6), strict=True):
        assert error.startswith(f"mergesafe: error: {family.folder / name}")
        assert error.endswith(f"({path}:{line} names it.)")


def test_index_that_names_a_missing_shard(ties: Path, family: Family) -> None:
    model = save(family.folder / "sharded", llama(1), shards=2)
    (model / "model-00002-of-00002.safetensors").unlink()
    write_recipe(ties, recipe("linear", [family.base, model], each={"weight": 1}))
    merge_refused(ties, words=(model, "model-00002-of-00002.safetensors", "fetch"))


def test_config_that_is_not_json(ties: Path, family: Family) -> None:
    path = family.base / "config.json"
    path.write_text("{")
    merge_refused(ties, words=(path, "not valid JSON"))


def test_adapter_of_another_base(ties: Path, family: Family) -> None:
    other = {name.replace("layers", "blocks"): tensor for name, tensor in llama(0).items()}
    adapter = save_adapter(family.folder / "adapter", other, 1)
    models = [family.base, f"{family.base}+{adapter}"]
    write_recipe(ties, recipe("linear", models, each={"weight": 1}))
    words = (adapter, "model.blocks.0.", "model.layers.0.", family.base, "trained on")
    merge_refused(ties, words=words)


# --- tensors that do not go together -------------------------------------------------------------


def resave(model: Path, change: Callable[[Tensors], object], seed: int) -> Path:
    """Save the model's tensors again after ``change``; returns the shard."""
    tensors = llama(seed)
    change(tensors)
    save_file(tensors, shard(model))
    return shard(model)


def test_missing_tensor(ties: Path, family: Family) -> None:
    resave(family.experts[1], lambda tensors: tensors.pop(NAME), 2)
    merge_refused(ties, words=(family.experts[1], NAME, "missing", family.base, "architecture"))


def test_extra_tensor(ties: Path, family: Family) -> None:
    resave(family.experts[1], lambda tensors: tensors.update(extra=torch.ones(2)), 2)
    merge_refused(ties, words=(family.base, "'extra'", "missing", family.experts[1]))


def test_shape_mismatch(ties: Path, family: Family) -> None:
    other = resave(family.experts[1], lambda tensors: tensors.update({NAME: torch.ones(3, 5)}), 2)
    words = (NAME, "[40, 16]", shard(family.base), "[3, 5]", other, "architecture")
    merge_refused(ties, words=words)


def test_vocabulary_mismatch(ties: Path, family: Family) -> None:
    save(family.experts[1], llama(2, vocab=52), {"vocab_size": 52})
    words = ("lm_head.weight", "[50, 16]", "[52, 16]", "vocabular", "tokenizer_source: union")
    merge_refused(ties, words=words)


def test_integer_buffers_that_differ(ties: Path, family: Family) -> None:
    for i, model in enumerate(family.models):
        ids = torch.tensor([0, 1, i // 2])
        resave(model, lambda tensors, ids=ids: tensors.update(ids=ids), i)
    words = ("'ids'", shard(family.base), shard(family.experts[1]), "agree")
    merge_refused(ties, words=words)


def test_integer_buffers_of_different_types(ties: Path, family: Family) -> None:
    for i, model in enumerate(family.models):
        ids = torch.tensor([0], dtype=torch.int32 if i else torch.int64)
        resave(model, lambda tensors, ids=ids: tensors.update(ids=ids), i)
    merge_refused(ties, words=("'ids'", "I32", "I64", "agree"))


def test_integers_against_floats(ties: Path, family: Family) -> None:
    integers = {NAME: torch.ones(40, 16, dtype=torch.int8)}
    other = resave(family.experts[1], lambda tensors: tensors.update(integers), 2)
    merge_refused(ties, words=(NAME, "I8 numbers", family.experts[1], "dequantize"))
    indices = torch.ones(40, dtype=torch.int8)  # a row is no packed matrix
    for seed, model in enumerate(family.models):
        values = indices if seed == 2 else indices.bfloat16()
        resave(model, lambda tensors, values=values: tensors.update(extra=values), seed)
    merge_refused(ties, words=("extra", "BF16", "I8", other))


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float64, "F64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
    ],
)
def test_types_that_are_refused(ties: Path, family: Family, dtype: torch.dtype, name: str) -> None:
    unwanted = {NAME: llama(2)[NAME].to(dtype)}
    path = resave(family.experts[1], lambda tensors: tensors.update(unwanted), 2)
    merge_refused(ties, words=(path, NAME, name, "BF16, F16, F32", "Convert"))


def test_quantized_checkpoint(ties: Path, family: Family) -> None:
    path = family.experts[1] / "config.json"
    path.write_text(json.dumps({**CONFIG, "quantization_config": {"quant_method": "gptq"}}))
    packed = {NAME.replace("weight", "qweight"): torch.ones(5, 16, dtype=torch.int32)}
    resave(family.experts[1], lambda tensors: tensors.update(packed), 2)
    merge_refused(ties, words=(family.experts[1], "gptq", "qweight", "dequantize"))


def test_plan_refuses_what_merge_refuses(ties: Path, family: Family) -> None:
    resave(family.experts[1], lambda tensors: tensors.pop(HEAD), 2)
    error = merge_refused(ties, words=(HEAD,))
    assert refused("plan", ties, words=(HEAD,)) == error


def test_names_with_control_characters_are_escaped(ties: Path, family: Family) -> None:
    evil = "a\nb\x1b[31m.weight"
    resave(family.experts[1], lambda tensors: tensors.update({evil: torch.ones(2)}), 2)
    merge_refused(ties, words=(r"a\nb\x1b[31m.weight", "missing"))
