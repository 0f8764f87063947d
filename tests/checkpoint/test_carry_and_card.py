"""Companions that travel with a merge, and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mergesafe.checkpoint.output.card import display_name, model_card
from mergesafe.checkpoint.output.companions import carry_over, companions, remote_code_warning
from mergesafe.checkpoint.output.folder import OutputFolder
from mergesafe.errors import CheckpointError

from .helpers import small_layout, write_model

CARRIED = [
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "chat_template.jinja", "chat_template.json", "qwen.tiktoken",
    "additional_chat_templates/rag.jinja",
]  # fmt: skip
LEFT = [
    "modeling_llama.py", "pytorch_model.bin", "optimizer.pt", "rng.pth", "state.pkl", "notes.txt",
    "training_args.bin", "README.md", "additional_chat_templates/evil.py",
    "model.safetensors.index.json.bak",
]  # fmt: skip


def model_folder(path: Path, files: list[str]) -> Path:
    write_model(path, "a")
    (path / "additional_chat_templates").mkdir()
    for name in files:
        (path / name).write_text(f"{path.name}: {name}")
    return path


def carry(
    tmp_path: Path, source: Path, *, tokenizer: Path | None = None, **options: Any
) -> list[str]:
    with OutputFolder(tmp_path / "out", small_layout(), overwrite=False, protect=[]) as folder:
        names = carry_over(folder, companions([source], [tokenizer or source]), **options)
        folder.commit()
    return names


def test_only_listed_files_are_carried(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "base", CARRIED + LEFT)
    names = carry(tmp_path, source, config={"z": 1, "a": "ü"})
    assert sorted(names) == sorted(["config.json", *CARRIED])
    for name in CARRIED:
        assert (tmp_path / "out" / name).read_text() == f"base: {name}"
    assert not any((tmp_path / "out" / name).exists() for name in LEFT)
    text = (tmp_path / "out" / "config.json").read_text()
    assert list(json.loads(text)) == ["z", "a"]
    assert "ü" in text


def test_tokenizer_of_another_checkpoint(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "base", ["generation_config.json", "tokenizer.json"])
    other = model_folder(tmp_path / "other", ["generation_config.json", "tokenizer.json"])
    carry(tmp_path, source, config={}, tokenizer=other)
    assert (tmp_path / "out" / "tokenizer.json").read_text().startswith("other")
    assert (tmp_path / "out" / "generation_config.json").read_text().startswith("base")
    assert not (tmp_path / "out" / "config.json").exists()


def test_single_file_has_no_companions(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "base", CARRIED)
    assert carry(tmp_path, source / "model.safetensors", config={"a": 1}) == ["config.json"]


def test_links_are_copied_and_dangling_ones_fail(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "base", [])
    (tmp_path / "blob").write_text("blob")
    (source / "tokenizer.json").symlink_to(tmp_path / "blob")
    assert carry(tmp_path, source, config={}) == ["tokenizer.json"]
    assert not (tmp_path / "out" / "tokenizer.json").is_symlink()
    (tmp_path / "blob").unlink()
    with (
        OutputFolder(tmp_path / "out2", small_layout(), overwrite=False, protect=[]) as folder,
        pytest.raises(CheckpointError, match="symbolic link to a missing file"),
    ):
        carry_over(folder, companions([source], [source]), config={})


def test_remote_code_is_announced() -> None:
    assert remote_code_warning({}) is None
    warning = remote_code_warning({"auto_map": {"AutoModel": "modeling_x.X"}})
    assert warning is not None
    assert "modeling_x.X" in warning
    assert "neither runs nor copies" in warning


def card(**changes: Any) -> str:
    values: dict[str, Any] = {
        "recipe_text": "merge_method: ties\n", "method": "ties", "method_title": "TIES",
        "paper": "https://arxiv.org/abs/2306.01708", "base": ("org/base",),
        "models": [("org/math",), ("/home/me/models/code",)], "version": "0.1",
    }  # fmt: skip
    return model_card(**(values | changes))


def front_matter(text: str) -> dict[str, Any]:
    _, header, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(header))


def test_card() -> None:
    text = card(warnings=["config.json names remote code"])
    assert front_matter(text) == {
        "base_model": ["org/base", "org/math", "code"],
        "library_name": "transformers",
        "tags": ["mergesafe", "merge"],
    }
    assert "```yaml\nmerge_method: ties\n```\n" in text
    assert "**TIES** (`ties`) ([paper](https://arxiv.org/abs/2306.01708))" in text
    assert "- base: `org/base`\n- `org/math`\n- `code`\n" in text
    assert "- config.json names remote code" in text
    assert "/home/me" not in text


def test_card_without_base_or_paper() -> None:
    text = card(base=None, paper=None, models=[(name,) for name in "abcda"])
    assert front_matter(text)["base_model"] == ["a", "b", "c", "d"]
    assert "# Merge of a, b, c and others" in text
    assert "paper" not in text
    assert "base:" not in text.split("---")[2]


def test_card_quotes_names_and_drops_what_is_no_name() -> None:
    names = ["on", "1.0", "/", "spaced name", "-rf", "a: b"]
    text = card(base=None, models=[(name,) for name in names])
    assert front_matter(text)["base_model"] == ["on", "1.0"]


def test_card_fence_cannot_be_closed_by_the_recipe() -> None:
    text = card(recipe_text="# ```\n# ````\nx: 1")
    assert "`````yaml\n# ```\n# ````\nx: 1\n`````\n" in text


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/model-7B.v1", "org/model-7B.v1"),
        ("model", "model"),
        ("/data/models/llama", "llama"),
        ("./models/llama/", "llama"),
        ("/c/models--org--name/snapshots/0123", "org/name"),
        ("/data/two\nlines", "two lines"),
        ("/", "(unnamed)"),
    ],
)
def test_display_name(model: str, name: str) -> None:
    assert display_name(model) == name


def test_card_of_a_model_with_an_adapter() -> None:
    """Neither of them is taken apart where its path has a plus."""
    text = card(
        base=None,
        models=[("org/base", "/data/ada+pters/lo+ra")],
        notes=["of /data/ada+pters/lo+ra"],
    )
    assert "- `org/base+lo+ra`\n" in text
    assert "- of lo+ra\n" in text
    assert front_matter(text)["base_model"] == ["org/base"]
