"""What travels with the weights, from which folder, and what is told to stay behind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from safetensors.torch import save_file
from tiny import read, recipe, save_adapter

import mergesafe as ms
from mergesafe.checkpoint.format.modules import module_files
from mergesafe.checkpoint.output.leftover import unexpected
from mergesafe.checkpoint.places.local_file import LocalFile
from mergesafe.errors import CheckpointError, UnreadableError

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]


def linear(family: Family, **keys: object) -> dict[str, object]:
    return recipe("linear", family.models, family.base, each={"weight": 1}, **keys)


def merged(family: Family, made: dict[str, object] | None = None) -> tuple[Path, tuple[str, ...]]:
    out = family.folder / "out"
    return out, ms.merge(made or linear(family), out).warnings


def sentence_model(folder: Path, dense: float = 1.0) -> None:
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {}}')
    for name in ("1_Pooling", "2_Dense"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(f'{{"name": "{name}"}}')
    save_file({"linear.weight": torch.full((2, 2), dense)}, folder / "2_Dense/model.safetensors")


@pytest.mark.parametrize(
    "name",
    ["video_preprocessor_config.json", "sentencepiece.bpe.model", "tekken.json", "NOTICE",
     "preprocessor_config.json", "normalizer.json", "LICENSE", "spm.model", "source.spm",
     "target.spm", "bpe.codes", "entity_vocab.json", "audio_tokenizer_config.json",
     "tokenizer.model.v3", "SYSTEM_PROMPT.txt", "LICENSE-2.0.txt", "Qwen LICENSE AGREEMENT.txt",
     "Notice.txt", "license.pdf"],
)  # fmt: skip
def test_files_of_the_reference_are_carried(family: Family, name: str) -> None:
    for model in family.models:
        (model / name).write_text(json.dumps(model.name))
    out, warnings = merged(family)
    assert (out / name).read_text() == '"base"'
    assert warnings == ()


def test_modules_and_the_folders_that_they_name(family: Family) -> None:
    for model in family.models:
        sentence_model(model)
    out, warnings = merged(family)
    assert warnings == ()
    for name in (
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    ):
        assert (out / name).read_bytes() == (family.base / name).read_bytes(), name
    assert ms.verify(out).files


def test_weights_of_modules_are_copied_and_that_is_told(family: Family) -> None:
    for index, model in enumerate(family.models):
        sentence_model(model, dense=min(index, 1))
    out, [warning] = merged(family)
    one, two = family.experts
    assert warning.startswith(f"2_Dense/model.safetensors is copied from {family.base}, not merged")
    assert f"that of {one}, {two} holds other weights" in warning
    dense = out / "2_Dense/model.safetensors"
    assert dense.read_bytes() == (family.base / "2_Dense/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "path", ["..", "../one", "/etc", ".git", "a/b", "a\\b", "config.json", "l"]
)
def test_modules_lead_nowhere_else(family: Family, path: str) -> None:
    (family.base / "modules.json").write_text(json.dumps([*MODULES[:1], {"path": path}]))
    outside = family.folder / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text("{}")
    (family.base / "l").symlink_to(outside)
    out, warnings = merged(family)
    assert any(f"names {path!r}, which is no plain name" in each for each in warnings)
    assert not list(out.rglob("secret.json"))
    assert {each.name for each in out.iterdir() if each.is_dir()} == set()


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"path": 7}]'])
def test_odd_modules_are_a_warning(family: Family, text: str) -> None:
    (family.base / "modules.json").write_text(text)
    _, [warning] = merged(family)
    assert "expected a list of at most 100 modules" in warning


def test_a_module_whose_weights_are_a_pickle(family: Family) -> None:
    for model in family.models:
        sentence_model(model)
        os.rename(model / "2_Dense/model.safetensors", model / "2_Dense/pytorch_model.bin")
    out, [warning] = merged(family)
    assert "2_Dense holds its weights in pytorch_model.bin, a pickle" in warning
    assert os.listdir(out / "2_Dense") == ["config.json"]


def test_what_stays_behind_is_named(family: Family) -> None:
    for name in (
        "README.md",
        "pytorch_model.bin",
        "training_args.bin",
        "value_head.safetensors",
        "lookup.csv",
        ".gitattributes",
        "modeling_x.py",
        "model.gguf",
    ):
        (family.base / name).write_text("x")
    for name in ("original", "speech_encoder"):
        (family.base / name).mkdir()
    (family.experts[0] / "only_of_an_expert.csv").write_text("x")
    _, [warning] = merged(family)
    expected = f"lookup.csv, speech_encoder/, value_head.safetensors in {family.base} are not"
    assert warning.startswith(expected)


def test_many_files_are_counted(family: Family) -> None:
    for i in range(9):
        (family.base / f"table{i}.csv").write_text("x")
    _, [warning] = merged(family)
    assert "table4.csv and 4 more in" in warning


@pytest.mark.parametrize(
    "name",
    ["tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
     "generation_config.json"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("data", "problem"),
    [(b'{"a": "\xff"}', "not UTF-8"), (b"{", "not JSON")],
)
def test_broken_small_files_are_refused(
    name: str, data: bytes, problem: str, family: Family
) -> None:
    """They would be copied, and nothing loads a model with them."""
    (family.base / "tokenizer.json").write_text("{}")
    (family.base / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"base/{name}: {problem}; expected JSON"):
        ms.plan(linear(family))


def test_a_key_that_is_there_twice_is_as_transformers_reads_it(family: Family) -> None:
    (family.base / "tokenizer.json").write_text("{}")
    (family.base / "special_tokens_map.json").write_text('{"a": 1, "a": 2}')
    ms.plan(linear(family))


@pytest.mark.parametrize("name", ["tokenizer.json", "LICENSE", "generation_config.json"])
def test_a_link_to_a_missing_file_is_refused_by_the_plan(name: str, family: Family) -> None:
    (family.base / name).unlink(missing_ok=True)
    (family.base / name).symlink_to(family.folder / "nowhere")
    with pytest.raises(CheckpointError, match=f"base/{name}: a symbolic link to a missing file"):
        ms.plan(linear(family))


def test_an_adapters_files_come_first(family: Family) -> None:
    adapter = save_adapter(family.folder / "adapter", read(family.base), 3)
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.txt")
    for name in names:
        (family.base / name).write_text('{"from": "base"}')
    for name in names[:3]:
        (adapter / name).write_text('{"from": "adapter"}')
    (adapter / "README.md").write_text("x")
    made = recipe("linear", [f"{family.base}+{adapter}", family.base], each={"weight": 1})
    out, _ = merged(family, made)
    for name in names[:3]:
        assert json.loads((out / name).read_text()) == {"from": "adapter"}
    assert not (out / "vocab.txt").exists()  # of another tokenizer
    out = family.folder / "again"
    (adapter / "tokenizer.json").unlink()  # without a vocabulary, only templates are taken
    (adapter / "added_tokens.json").write_text('{"from": 7}')
    told = ms.merge(made, out).warnings
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((out / name).read_text()) == {"from": "base"}
    assert not (out / "added_tokens.json").exists()
    left = f"added_tokens.json, tokenizer_config.json in {adapter} are not carried over"
    assert any(each.startswith(left) for each in told)
    assert json.loads((out / "chat_template.jinja").read_text()) == {"from": "adapter"}
    assert (out / "vocab.txt").exists()


def test_a_tokenizer_source_with_an_adapter(family: Family) -> None:
    adapter = save_adapter(family.folder / "adapter", read(family.base), 3)
    (adapter / "tokenizer.json").write_text('{"from": "adapter"}')
    tuned = f"{family.base}+{adapter}"
    made = recipe("linear", [family.base, tuned], each={"weight": 1}, tokenizer_source=tuned)
    out, _ = merged(family, made)
    assert json.loads((out / "tokenizer.json").read_text()) == {"from": "adapter"}


USELESS = [
    "README.md", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "tf_model.h5",
    "model.fp16.safetensors", "model-00003-of-00009.safetensors", "consolidated.00.pth",
    "model.Q4_K_M.gguf", "optimizer.pt", "rng_state_0.pth", "trainer_state.json",
    "all_results.json", "checkpoint-500", "global_step12", "runs", "original", "onnx", "config.py",
    ".cache", "mergekit_config.yml", "mergesafe-manifest.json", "figure.PNG",
    "events.out.tfevents.1.x",
]  # fmt: skip
USEFUL = [
    "value_head.safetensors", "lookup.csv", "speech_encoder", "codebook.json", "spk.pt", "vae",
    "model.safetensors.bak", "tokenizer.model.v3", "labels.txt",
]  # fmt: skip


def test_what_is_known_to_be_useless() -> None:
    carried: list[Any] = ["config.json", "1_Pooling/config.json"]
    listed = [*USELESS, *USEFUL, "config.json", "1_Pooling"]
    assert unexpected(listed, carried) == sorted(USEFUL)


def test_modules_that_the_disk_does_not_give(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model without its modules would be another one."""

    def read(file: Any, begin: int, view: memoryview) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (family.base / "modules.json").write_text(json.dumps(MODULES))
    monkeypatch.setattr(LocalFile, "read", read)
    with pytest.raises(UnreadableError, match=r"modules\.json: cannot read .Input/output error"):
        list(module_files(family.base))


def test_names_that_only_look_like_a_licence_stay_behind(family: Family) -> None:
    for name in ("license.py", "license_plates.bin", "noticeable.txt"):
        (family.base / name).write_text("x")
    out, _ = merged(family)
    assert not any("licen" in file.name or "notice" in file.name for file in out.iterdir())
