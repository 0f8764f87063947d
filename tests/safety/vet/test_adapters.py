"""Adapters whose configuration says something else than their tensors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import Tensors, command, llama, save, save_adapter

import mergesafe as ms
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.adapters import plain_name

MODULES = ["o_proj", "down_proj"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save(tmp_path / "Tiny-3B", llama(0))
    return tmp_path / "Tiny-3B"


def adapter(base: Path, change: dict[str, Any], drop: str = "") -> Path:
    """An adapter of ``o_proj`` and ``down_proj`` in layers 0 to 2, with other settings."""
    folder = save_adapter(base.parent / "adapter", llama(0), 1)
    config = json.loads((folder / "adapter_config.json").read_text())
    honest = {"base_model_name_or_path": "org/tiny-3b", "target_modules": MODULES}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **honest, **change}))
    if drop:
        file = folder / "adapter_model.safetensors"
        kept: Tensors = {k: v for k, v in load_file(file).items() if drop not in k}
        save_file(kept, file)
    return folder


def audit(base: Path, change: dict[str, Any], drop: str = "") -> list[Finding]:
    folder = adapter(base, change, drop)
    [parent] = ms.vet([f"{base}+{folder}"], base, behaviour=False).parents
    return [finding for finding in parent.findings if finding.area == "files"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"target_modules": "all-linear", "exclude_modules": [
            "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]},
        {"target_modules": r".*\.(o_proj|down_proj)$"},
        {"target_modules": ["self_attn.o_proj", "mlp.down_proj"], "layers_to_transform": [0, 1, 2]},
        {"layers_to_transform": [0, 1, 2], "layers_pattern": "layers"},
        {"base_model_name_or_path": "/home/x/.cache/models--org--Tiny-3B/snapshots/0123abcd"},
        {"base_model_name_or_path": "unsloth/tiny-3b-bnb-4bit"},
        {"base_model_name_or_path": None},
        {"rank_pattern": {"o_proj": 3}, "alpha_pattern": {r"layers\.[01]\.mlp\.down_proj": 6}},
        {"lora_alpha": 12, "use_rslora": True},
    ],
)  # fmt: skip
def test_honest_adapters(base: Path, change: dict[str, Any]) -> None:
    assert audit(base, change) == []


@pytest.mark.parametrize(
    ("change", "drop", "severity", "words", "where"),
    [
        ({"target_modules": ["o_proj"]}, "", "unfit",
         "3 modules are adapted that target_modules does not declare",
         "model.layers.0.mlp.down_proj"),
        ({"target_modules": r".*layers\.[01]\..*_proj"}, "", "unfit",
         "2 modules are adapted that target_modules does not declare", "model.layers.2"),
        ({"exclude_modules": ["layers.1.mlp.down_proj"]}, "", "unfit",
         "1 module is adapted that target_modules does not declare", "model.layers.1.mlp"),
        ({"layers_to_transform": [0, 1]}, "", "unfit",
         "2 modules are adapted that layers_to_transform does not declare", "model.layers.2"),
        ({"layers_to_transform": 0, "layers_pattern": ["layers"]}, "", "unfit",
         "4 modules are adapted that layers_to_transform does not declare", "model.layers.1"),
        ({"target_modules": [*MODULES, "q_proj"]}, "", "warning",
         "3 modules are declared and have no tensors", "model.layers.0.self_attn.q_proj"),
        ({}, "layers.1.mlp.down_proj", "warning", "1 module is declared and has no tensors",
         "model.layers.1.mlp.down_proj"),
        ({"target_modules": "all-linear"}, "", "warning",
         "15 modules are declared and have no tensors", "gate_proj"),
        ({"layers_to_transform": [0, 1, 2, 7]}, "", "warning", "layers that have no tensors: 7",
         "adapter_config.json"),
        ({"target_modules": [*MODULES, "query_key_value"]}, "", "note",
         "target_modules declares what the base has not: query_key_value", "adapter_config.json"),
        ({"target_modules": None}, "", "warning", "names no target_modules", "adapter_config.json"),
        ({"target_modules": "("}, "", "unfit", "nothing can be told", "adapter_config.json"),
        ({"base_model_name_or_path": "org/Tiny-3B-Instruct"}, "", "warning",
         "trained on 'org/Tiny-3B-Instruct', applied to", "adapter_config.json"),
        ({"lora_alpha": 3000}, "", "warning", "6 pairs are scaled by lora_alpha / r outside 0.01 "
         "to 32, one by 1000", "adapter_config.json"),
        ({"alpha_pattern": {"o_proj": 0.001}}, "", "warning", "3 pairs are scaled", "o_proj"),
        ({"rank_pattern": {"q_proj": 8}}, "", "warning",
         "1 key matches none of the adapted modules in rank_pattern (q_proj)",
         "adapter_config.json"),
        ({"alpha_pattern": {"o_prj": 64}}, "", "warning", "in alpha_pattern (o_prj)",
         "adapter_config.json"),
        ({"rank_pattern": {"o_proj": 8}}, "", "unfit", "expected [8, 16] for rank 8", "adapter"),
    ],
)  # fmt: skip
def test_lies(
    base: Path, change: dict[str, Any], drop: str, severity: str, words: str, where: str
) -> None:
    found = audit(base, change, drop)
    assert any(f.severity == severity and words in f.what and where in f.where for f in found), (
        found
    )
    worst = {"unfit": 0, "warning": 1, "note": 2}
    assert not [f for f in found if worst[f.severity] < worst[severity]], found


@pytest.mark.parametrize(("declared", "count"), [(None, 1), (["norm"], 0), (["model.norm"], 0)])
def test_whole_tensors_that_nothing_declares(
    base: Path, declared: list[str] | None, count: int
) -> None:
    """PEFT takes them, too; an embedding or head is stored whole where rows were added."""
    folder = adapter(base, {"modules_to_save": declared})
    file = folder / "adapter_model.safetensors"
    whole = {name: llama(0)[name] for name in ("model.norm.weight", "lm_head.weight")}
    save_file({**load_file(file), **{f"base_model.model.{n}": t for n, t in whole.items()}}, file)
    [parent] = ms.vet([f"{base}+{folder}"], base, behaviour=False).parents
    found = [f for f in parent.findings if "modules_to_save does not declare" in f.what]
    assert [(f.severity, "model.norm.weight" in f.where) for f in found] == [
        ("warning", True)
    ] * count


def test_lies_are_found_in_an_adapter_that_cannot_be_opened(base: Path) -> None:
    found = audit(base, {"target_modules": ["o_proj"], "use_dora": True})
    assert any("use_dora" in f.what for f in found)
    assert any("3 modules are adapted that" in f.what for f in found)


def test_a_folder_that_does_not_say_which_model_it_is(tmp_path: Path) -> None:
    base = save(tmp_path / "base", llama(0))
    [finding] = audit(base, {"base_model_name_or_path": "org/Other"})
    assert finding.severity == "note"
    assert "does not say which model it is" in finding.what
    save(base, llama(0), {"_name_or_path": "org/Other"})
    [parent] = ms.vet([f"{base}+{tmp_path / 'adapter'}"], base, behaviour=False).parents
    assert not [f for f in parent.findings if f.area == "files"]


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_a_pattern_that_takes_for_ever_is_stopped(base: Path, key: str) -> None:
    began = time.monotonic()
    found = audit(base, {key: "(.*.*)*" * 20 + "X"})
    assert any(f.severity == "unfit" and f"{key} is" in f.what for f in found), found
    assert time.monotonic() - began < 30


def test_long_lists_are_compared_in_linear_time(base: Path) -> None:
    names = [f"layers.{number}.none" for number in range(100_000)]
    change = {
        "target_modules": [*names, "o_proj", "down_proj"], "rank_pattern": dict.fromkeys(names, 2),
        "layers_to_transform": list(range(100_000)), "layers_pattern": [*names, "layers"],
        "base_model_name_or_path": "-fp8" * 100_000 + "\nx",
    }  # fmt: skip
    began = time.monotonic()
    found = audit(base, change)
    assert time.monotonic() - began < 20
    assert all(len(f.what) < 2000 for f in found)
    assert not [f for f in found if f.severity == "unfit"], found


def test_giant_names_are_not_compared(base: Path) -> None:
    folder = adapter(base, {})
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors |= {f"base_model.model.{'0.' * 20_000}.lora_{side}.weight": torch.ones(1, 1)
                for side in "AB"}  # fmt: skip
    save_file(tensors, folder / "adapter_model.safetensors")
    [parent] = ms.vet([f"{base}+{folder}"], base, behaviour=False).parents
    assert any("module names longer than any model has" in f.what for f in parent.findings)


def test_names_without_owner_folder_and_quantization() -> None:
    assert plain_name("Org/Llama-3-8B@main") == "llama-3-8b"
    assert plain_name("./models/Llama-3-8B/") == "llama-3-8b"
    assert plain_name("unsloth/llama-3-8b-unsloth-bnb-4bit") == "llama-3-8b"
    assert plain_name("x/Llama-3-8B-GPTQ-Int4") == "llama-3-8b"
    assert plain_name("llama-3-8b-instruct") != "llama-3-8b"


def test_the_command_shows_them(base: Path) -> None:
    folder = adapter(base, {"target_modules": ["o_proj"]})
    done = command("vet", f"{base}+{folder}", "--base", base, "--no-behaviour")
    assert done.returncode == 3
    assert "3 modules are adapted that target_modules does not" in " ".join(done.stderr.split())
    assert "adapter/adapter_model.safetensors" in done.stdout
