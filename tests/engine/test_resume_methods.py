"""Merges of every kind that are killed and resumed with other budgets: the same bytes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIG, Tensors, llama, recipe, save

from mergesafe.engine.resume.entries import MERGE
from mergesafe.journal import Journal

from .crashing import BIG, Merges
from .ray_models import in_8_bits

#: Rows of BIG, which is streamed in more tiles than anything else takes calls.
ROWS = 6000
SMALL = ("--memory", "1MiB")


#: In a child: the rows of BIG are gathered from others, and some filled with the mean of all.
GATHERED = f"""
from dataclasses import replace
from mergesafe.checkpoint.views.rows import Rows, Run
from mergesafe.outline.sources import Model
stored = Model.source
def source(model, name):
    found, runs = stored(model, name), (Run(300, 0, 500), Run(0, 900, 200), Run(1800, 1500, 1200))
    big = found is not None and name == "{BIG}"
    return replace(found, view=Rows(found.view, runs, {ROWS}, "mean")) if big else found
Model.source = source
"""
EACH = {"weight": 0.5, "density": 0.4}
WRITTEN = "tests.engine.written"


def tensors(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return llama(seed) | {BIG: torch.randn(ROWS, 256, generator=generator).bfloat16()}


def models(folder: Path, make: Callable[[int], Tensors] = tensors, **config: Any) -> list[Path]:
    return [save(folder / name, make(i), config) for i, name in enumerate(("base", "a", "b"))]


def of_method(method: str, each: dict[str, Any], **options: Any) -> Callable[[Path], Merges]:
    """``options``: parameters of the method, or ``base=False`` for one that has none."""
    separate = options.pop("base", True)

    def made(folder: Path) -> Merges:
        base, *experts = models(folder)
        listed, first = (experts, base) if separate else ([base, *experts], None)
        return Merges(
            folder, recipe(method, listed, first, each=each, parameters=options), "", *SMALL
        )

    return made


def sliced(folder: Path) -> Merges:
    """Layers of two models one over the other, with a method each, a big tensor in every layer."""

    def with_big(seed: int) -> Tensors:
        big = tensors(seed)[BIG]
        layers = range(CONFIG["num_hidden_layers"])
        return tensors(seed) | {BIG.replace(".0.", f".{i}."): big + i for i in layers}

    base, a, b = map(str, models(folder, with_big))

    def sources(first: int, end: int, *names: str, **given: float) -> list[dict[str, Any]]:
        return [{"model": each, "layer_range": [first, end], "parameters": given} for each in names]

    slices = [
        {"sources": sources(0, 2, a, b, **EACH)},
        {"sources": sources(1, 3, b, a, weight=0.5), "merge_method": "linear"},
    ]
    content = {"merge_method": "ties", "base_model": base, "slices": slices}
    return Merges(folder, content, "", *SMALL)


def of_8_bits(folder: Path) -> Merges:
    """BIG with a scale for each block, merged to bfloat16."""

    def packed(seed: int) -> Tensors:
        return in_8_bits(tensors(seed), BIG, seed)

    settings = {"quant_method": "fp8", "weight_block_size": [16, 8]}
    base, *experts = models(folder, packed, quantization_config=settings)
    return Merges(
        folder, recipe("ties", experts, base, each=EACH, out_dtype="bfloat16"), "", *SMALL
    )


def gathered(folder: Path) -> Merges:
    base, *experts = models(folder)
    return Merges(folder, recipe("ties", experts, base, each=EACH), GATHERED, "--memory", "3500kB")


def to_8_bits(folder: Path) -> Merges:
    """Two stored tensors for each matrix: codes, and a scale for every row."""
    base, *experts = models(folder)
    content = recipe("ties", experts, base, each=EACH, out_dtype="float8_e4m3fn")
    return Merges(folder, content, "", *SMALL)


def calibrated(folder: Path) -> Merges:
    """With a Fisher diagonal beside each model."""
    content = recipe("fisher", models(folder), each={"weight": 0.5})
    for i, entry in enumerate(content["models"]):
        numbers = {name: x.float().abs() + 0.1 for name, x in tensors(i + 5).items()}
        entry["calibration"] = {"fisher": str(save(folder / f"fisher{i}", numbers))}
    return Merges(folder, content, "", *SMALL)


KINDS: dict[str, Callable[[Path], Merges]] = {
    "slices": sliced,
    "fp8": of_8_bits,
    "rows by token": gathered,
    "fp8 output": to_8_bits,
    "fisher": calibrated,
    "thresholds of the model": of_method("ties", EACH, trim_scope="model"),
    "della": of_method("della", EACH | {"epsilon": 0.1}),
    "sce": of_method("sce", {}, select_topk=0.4),
    "tiles of one's own": of_method(f"{WRITTEN}:summed", {"weight": 0.4}),
    "rows of one's own": of_method(f"{WRITTEN}:unit_rows", {}, base=False),
    "karcher": of_method("karcher", {}, base=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_twice_and_resumed_with_other_budgets(kind: str, tmp_path: Path) -> None:
    merges = KINDS[kind](tmp_path)
    for at, options in ((0.5, ()), (0.25, ("--resume", "--threads", "1"))):
        killed = merges.run("kill", int(at * merges.calls), *options)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Journal(merges.area / "journal", MERGE) as journal:
        found = journal.read()
    assert found is not None
    begun = [record["begin"] for record in found.records if "begin" in record]
    assert any(begun)  # a tile of a tensor that is streamed is resumed
    merges.finished("--memory", "64MiB", "--threads", "3")
