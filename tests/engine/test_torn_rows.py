"""Rows that end with a block after thousands of rows only: tiles end within them.

Each tile is read and merged with the rest of its first and its last row, to the same bytes as tiles
of whole rows, in a fraction of their memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import bits, read, recipe, save

import mergesafe
from mergesafe.engine.plan import tiling

#: 4096 rows of 1531 elements are whole blocks, and 8192 rows of 1001.
SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (1700, 1531),
    "model.layers.0.mlp.down_proj.weight": (2900, 1001),
    "model.layers.0.mlp.gate_proj.weight": (5, 100_001),
    "model.layers.0.mlp.even_proj.weight": (300, 1024),
}
CASES: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "user's rows": ("tests.engine.written:unit_rows", {}, {}),
    "8 bits": ("ties", {"weight": 0.4, "density": 0.5}, {"out_dtype": "float8_e4m3fn"}),
    "8 bits without statistics": ("linear", {"weight": 0.4}, {"out_dtype": "float8_e4m3fn"}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, made = tmp_path_factory.mktemp("models"), []
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        tensors = {n: torch.randn(s, generator=generator).bfloat16() for n, s in SHAPES.items()}
        made.append(save(folder / f"m{i}", tensors))
    return made


def content(name: str, models: list[Path]) -> dict[str, Any]:
    method, each, keys = CASES[name]
    if method == "linear" or ":" in method:
        return recipe(method, models, each=each, **keys)
    return recipe(method, models[1:], models[0], each=each, **keys)


def digests(out: Path) -> dict[str, str]:
    manifest = json.loads((out / "mergesafe-manifest.json").read_text())
    return {name: entry["digest"] for name, entry in manifest["tensors"].items()}


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_of_whole_rows(
    name: str, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = content(name, models)
    with monkeypatch.context() as patch:
        patch.setattr(tiling, "LARGE_STEP", 1 << 40)
        whole = mergesafe.plan(made, memory="4GiB", threads=1).schedule.layouts
        assert not any(each.row for each in whole.values())
        mergesafe.merge(made, tmp_path / "whole", memory="4GiB", threads=1)
    for out, memory, threads in (("large", "4GiB", 2), ("small", "16MiB", 2), ("one", "32MiB", 1)):
        layouts = mergesafe.plan(made, memory=memory, threads=threads).schedule.layouts
        torn = {task for task, each in layouts.items() if each.row}
        assert torn == {task for task in SHAPES if "even" not in task}
        if out == "small":
            assert any(each.tile % each.row for task, each in layouts.items() if task in torn)
        mergesafe.merge(made, tmp_path / out, memory=memory, threads=threads)
        one, two = read(tmp_path / "whole"), read(tmp_path / out)
        assert one.keys() == two.keys()
        assert all(torch.equal(bits(tensor), bits(two[key])) for key, tensor in one.items())
        assert digests(tmp_path / out) == digests(tmp_path / "whole")


def test_resumed_within_a_row(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergesafe.engine.run.results import RunResults

    made, finished, count = content("8 bits without statistics", models), RunResults.finished, 0
    mergesafe.merge(made, tmp_path / "whole", memory="24MiB", threads=1)

    def stop(self: RunResults, entry: Any) -> None:
        nonlocal count
        finished(self, entry)
        count += 1
        if count == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunResults, "finished", stop)
        with pytest.raises(KeyboardInterrupt):
            mergesafe.merge(made, tmp_path / "out", memory="24MiB", threads=1, resume=True)
    done = mergesafe.merge(made, tmp_path / "out", memory="24MiB", threads=1, resume=True)
    assert done.resumed_bytes > 0
    one, two = read(tmp_path / "whole"), read(tmp_path / "out")
    assert all(torch.equal(bits(tensor), bits(two[key])) for key, tensor in one.items())
    mergesafe.verify(tmp_path / "out")


def test_memory_is_a_few_rows(tmp_path: Path) -> None:
    """Whole rows that are whole blocks would be 67 million elements, 470 MB of two models."""
    models = [save(tmp_path / n, {"model.layers.0.x_proj.weight": torch.ones(16_400, 4097).half()})
              for n in "ab"]  # fmt: skip
    made = recipe("linear", models, each={"weight": 0.5}, out_dtype="float8_e4m3fn")
    layout = mergesafe.plan(made, memory="64MiB").schedule.layouts["model.layers.0.x_proj.weight"]
    assert layout.row == 4097
    assert layout.nbytes < 16 << 20
