"""Shapes, sizes, names and types at the edges."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import FAMILY, Tensors, command, process, read, recipe, same_bits, save, write_recipe

import mergesafe
from mergesafe.engine import memory
from mergesafe.engine.plan import tiling as layout
from mergesafe.engine.run import workers as stream

from . import float64

METHODS = [
    "linear", "slerp", "nearswap", "magmax", "ramplus_tl", "arcee_fusion", "pcb", "passthrough",
    "resta", *FAMILY,
]  # fmt: skip
#: Around the block of reductions, and sizes that one or several tiles of it hold.
EDGES = [1, 2, 15, 16, 17, 4095, 4096, 4097, 8191, 8192, 8193, 12289]
ODD_NAMES = [
    "a", ".", "..", "a/b", "../escape", "with space", "quote'\"", "back\\slash", "tab\t", "line\n",
    "ünïcödé", "重み.weight", "🙂", "x" * 300, "%s{}", "__metadata", "model.layers.99999.w",
    "model.layers.-1.w", "lm_head", "-rf",
]  # fmt: skip


def content(method: str, models: list[Path], **keys: Any) -> dict[str, Any]:
    """A recipe of ``method`` for a base and two experts."""
    if method == "slerp":
        return recipe(method, models[:2], models[0], parameters={"t": 0.4}, **keys)
    if method == "nearswap":
        return recipe(method, models[1:2], models[0], parameters={"t": 0.4}, **keys)
    if method == "magmax":
        return recipe(method, models[1:], models[0], parameters={"lambda": 0.4}, **keys)
    if method == "resta":
        beside = {"aligned": str(models[1]), "unaligned": str(models[2])}
        return recipe(method, models[:1], parameters={"gamma": 0.4}, references=beside, **keys)
    if method == "arcee_fusion":
        return recipe(method, models[1:2], models[0], **keys)
    if method == "pcb":
        return recipe(method, models[1:], models[0], parameters={"density": 0.4}, **keys)
    if method == "ramplus_tl":
        return recipe(method, models[1:], models[0], parameters={"epsilon": 0.9}, **keys)
    if method == "passthrough":
        return recipe(method, models[:1], each={"scale": 0.5}, **keys)
    each = [{"weight": w, **FAMILY.get(method, {})} for w in (0.6, 0.8)]
    return recipe(method, models[1:], models[0] if method in FAMILY else None, each=each, **keys)


def three(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> list[Path]:
    paths = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        tensors = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
        paths.append(save(folder / f"m{seed}", tensors))
    return paths


def both_backends(method: str, models: list[Path], folder: Path, **keys: Any) -> Tensors:
    """The merge, checked to be the same with the reference backend on whole tensors."""
    # of arcee_fusion a vector is one row, of pcb a block takes 256 KiB; resta reads two references
    memory = {"arcee_fusion": "4MiB", "pcb": "4MiB", "resta": "256KiB"}.get(method, "128KiB")
    mergesafe.merge(content(method, models, **keys), folder / "native", memory=memory)
    mergesafe.merge(content(method, models, **keys), folder / "reference", backend="reference")
    ours, truth = read(folder / "native"), read(folder / "reference")
    assert [name for name in truth if not same_bits(ours[name], truth[name])] == []
    return ours


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small tensors be streamed in tiles as large ones are."""
    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)


@pytest.mark.parametrize("method", METHODS)
def test_shapes(method: str, tmp_path: Path) -> None:
    shapes = {
        "empty": (0,), "empty matrix": (7, 0, 3), "scalar": (), "one": (1,), "vector": (5,),
        "row": (1, 9), "column": (9, 1), "five": (2, 1, 3, 1, 2),
    }  # fmt: skip
    models = three(tmp_path, shapes, torch.bfloat16)
    merged = both_backends(method, models, tmp_path)
    assert {name: tuple(tensor.shape) for name, tensor in merged.items()} == shapes


@pytest.mark.parametrize("method", METHODS)
def test_sizes_around_blocks_and_tiles(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_block = replace(stream.CPU_SIZES, write=8192)  # in bf16
    monkeypatch.setattr(stream, "CPU_SIZES", one_block)
    monkeypatch.setattr(layout, "SMALL_TILE", layout.BLOCK)
    models = three(tmp_path, {f"n{size}": (size,) for size in EDGES}, torch.bfloat16)
    plan = mergesafe.plan(content("ties", models), memory="128KiB")
    tiles = {plan.schedule.layouts[f"n{size}"].tile for size in EDGES[3:]}
    assert 4096 in tiles
    both_backends(method, models, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("method", METHODS)
def test_other_types(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    merged = both_backends(method, three(tmp_path, {"w": (33, 7)}, dtype), tmp_path)
    assert merged["w"].dtype == dtype


def test_more_than_a_thousand_tiny_tensors(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i}.w": (i % 5,) for i in range(1200)}
    models = three(tmp_path, shapes, torch.bfloat16)
    merged = both_backends("ties", models, tmp_path)
    assert merged.keys() == shapes.keys()


def test_odd_names(tmp_path: Path) -> None:
    models = three(tmp_path, dict.fromkeys(ODD_NAMES, (3,)), torch.float32)
    merged = both_backends("dare_ties", models, tmp_path)
    assert sorted(merged) == sorted(ODD_NAMES)


def test_odd_paths(tmp_path: Path) -> None:
    """Spaces, quotes and other alphabets in the names of models and of the output."""
    folder = tmp_path / 'it\'s a "föld€r" 重'
    models = three(folder, {"w": (3,)}, torch.float32)
    for model in models:
        (model / "tokenizer.json").write_text("{}")  # else there is a warning
    file = write_recipe(folder / "a b.yml", content("linear", models))
    done = command("merge", file, folder / "öut put")
    assert (done.returncode, done.stderr) == (0, "")
    assert "w" in read(folder / "öut put")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_path_that_is_not_unicode(tmp_path: Path, options: tuple[str, ...]) -> None:
    models = three(tmp_path, {"w": (3,)}, torch.float32)
    for model in models:
        (model / "tokenizer.json").write_text("{}")  # else there is a warning
    file = write_recipe(tmp_path / "r.yml", content("linear", models))
    out = tmp_path / "out\udcff"
    done = process("merge", file, out, *options, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"out\udcff" in done.stdout
    assert (out / "model.safetensors").exists()


def test_hundreds_of_experts(tmp_path: Path) -> None:
    """Bits of the flags that kernels answer with are shared from the 62nd input on."""
    values = torch.randn(70, 11)
    models = [save(tmp_path / f"m{i}", {"w": row.clone()}) for i, row in enumerate(values)]
    content = recipe("linear", models, each={"weight": 1})
    mergesafe.merge(content, tmp_path / "out")
    exact = values.double().mean(0)
    assert float((read(tmp_path / "out")["w"] - exact).abs().max()) < 1e-6
    values[68, 3] = torch.nan
    save(models[68], {"w": values[68].clone()})
    with pytest.raises(mergesafe.MergesafeError, match=r"m68/model\.safetensors.*1 value "):
        mergesafe.merge(content, tmp_path / "bad")


# --- types ---------------------------------------------------------------------------------------


def test_dtype_casts_at_load(tmp_path: Path) -> None:
    """A bf16 recipe on fp32 models equals merging the models converted to bf16."""
    models = three(tmp_path, {"w": (40, 50)}, torch.float32)
    mergesafe.merge(content("ties", models, dtype="bfloat16"), tmp_path / "cast")
    for model in models:
        save_file({"w": read(model)["w"].bfloat16()}, model / "model.safetensors")
    mergesafe.merge(content("ties", models), tmp_path / "converted")
    cast = read(tmp_path / "cast")["w"]
    assert same_bits(cast, read(tmp_path / "converted")["w"])


def test_out_dtype_rounds_once_at_the_end(tmp_path: Path) -> None:
    models = three(tmp_path, {"w": (40, 50)}, torch.float32)
    mergesafe.merge(content("linear", models), tmp_path / "full")
    mergesafe.merge(content("linear", models, out_dtype="bfloat16"), tmp_path / "half")
    full, half = read(tmp_path / "full")["w"], read(tmp_path / "half")["w"]
    assert same_bits(half, full.to(torch.bfloat16))


def test_mixed_types_merge_in_float32(tmp_path: Path) -> None:
    """bf16 and fp16 have no common type but fp32."""
    values = [torch.randn(9).bfloat16(), torch.randn(9).half()]
    models = [save(tmp_path / f"m{i}", {"w": value}) for i, value in enumerate(values)]
    mergesafe.merge(recipe("linear", models, each={"weight": 1}), tmp_path / "out")
    merged = read(tmp_path / "out")["w"]
    assert merged.dtype == torch.float32
    assert float((merged - float64.linear(values, (1, 1))).abs().max()) < 1e-7


def test_integer_tensors_are_copied_whatever_the_type(tmp_path: Path) -> None:
    integers = {
        "i64": torch.tensor([[2**62, -1]]), "i32": torch.tensor(-7, dtype=torch.int32),
        "u8": torch.arange(256, dtype=torch.uint8), "bool": torch.tensor([True, False]),
        "none": torch.empty(0, dtype=torch.int64),
    }  # fmt: skip
    paths = [save(tmp_path / f"m{i}", {"w": torch.ones(3) * i, **integers}) for i in range(3)]
    mergesafe.merge(content("ties", paths, out_dtype="bfloat16"), tmp_path / "out")
    merged = read(tmp_path / "out")
    assert merged["w"].dtype == torch.bfloat16
    assert all(same_bits(merged[name], tensor) for name, tensor in integers.items())
