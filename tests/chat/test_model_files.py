"""The identity of a model changes with every file that may change what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mergesafe.chat.model_files import files_digest

COUNT = (
    "model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin", "config.json",
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "spiece.model", "merges.txt", "vocab.txt", "vocab.json",
    "vocab.bpe", "qwen.tiktoken", "tekken.json", "normalizer.json", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/tools.jinja", "parts/shard.safetensors",
    "preprocessor_config.json", "inspector.json",
)  # fmt: skip
SILENT = ("README.md", "LICENSE", "modeling_own.py", "picture.png", ".gitattributes", "x.gguf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*COUNT, *SILENT):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}" if name.endswith(".json") else "a")
    index = {"weight_map": {"a": "parts/shard.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize("name", [*COUNT, "model.safetensors.index.json"])
def test_every_kind_of_file_counts(folder: Path, name: str) -> None:
    before = files_digest(folder)
    assert files_digest(folder) == before
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"a", b"b") if b"a" in content else content + b" ")
    assert files_digest(folder) != before
    (folder / name).write_bytes(content)
    assert files_digest(folder) == before
    (folder / name).rename(folder / f"{name}.md")
    assert files_digest(folder) != before


@pytest.mark.parametrize("name", SILENT)
def test_what_nothing_reads_does_not(folder: Path, name: str) -> None:
    before = files_digest(folder)
    (folder / name).write_text("other")
    assert files_digest(folder) == before


def test_what_is_no_file_is_passed_over(folder: Path) -> None:
    before = files_digest(folder)
    (folder / "endless.json").symlink_to("/dev/zero")
    (folder / "gone.json").symlink_to("gone")
    (folder / "folder.json").mkdir()
    assert files_digest(folder) == before
