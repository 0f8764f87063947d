"""Full checkpoints whose task vectors have few directions, merged by methods that need many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, save, save_adapter

import mergesafe as ms
from mergesafe.engine.run import numerical_rank

WORDS = "merged by iso_c from task vectors of low rank, as of models that adapters were merged into"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base, a model that an adapter of rank 2 was merged into, and one fine-tuned in full."""
    folder = tmp_path_factory.mktemp("models")
    base = save(folder / "base", llama(0, dtype=torch.float32))
    adapter = save_adapter(folder / "adapter", read(base), 3)
    ms.merge(recipe("passthrough", [f"{base}+{adapter}"]), folder / "merged")
    return [base, folder / "merged", save(folder / "full", llama(1, dtype=torch.float32))]


def told(warnings: Any) -> list[str]:
    return [each for each in warnings if "low rank" in each]


def test_it_is_said_after_the_merge_and_in_the_manifest(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, merged, full = models
    done = ms.merge(recipe("iso_c", [merged], base), tmp_path / "out")
    [warning] = told(done.warnings)
    assert WORDS in warning
    assert "'core_space(iso_c)' merges the adapters themselves" in warning
    manifest = json.loads((tmp_path / "out/mergesafe-manifest.json").read_text())
    assert told(manifest["warnings"]) == [warning]
    assert not told(ms.merge(recipe("iso_c", [full], base), tmp_path / "full").warnings)
    assert not told(ms.merge(recipe("iso_c", [merged, full], base), tmp_path / "both").warnings)
    assert not told(ms.merge(recipe("star", [merged], base), tmp_path / "star").warnings)
    # of blocks, too
    monkeypatch.setattr(numerical_rank, "BLOCK", 12)
    done = ms.merge(recipe("iso_c", [merged], base), tmp_path / "block")
    assert "12 rows and columns of" in told(done.warnings)[0]


def test_adapters_are_said_in_the_plan_alone(models: list[Path], tmp_path: Path) -> None:
    base = models[0]
    adapter = save_adapter(tmp_path / "adapter", read(base), 3)
    done = ms.merge(recipe("iso_c", [f"{base}+{adapter}"], base), tmp_path / "out")
    assert len(told(done.warnings)) == 1
    assert "from adapters of low rank" in told(done.warnings)[0]


def test_the_journal_keeps_it() -> None:
    from mergesafe.engine.resume.entries import Tile, finished_of, record_of

    tile = Tile(3, 0, 8, {"0": 5}, directions=2)
    assert finished_of([record_of(tile)]).tiles[3] == [tile]
    assert "directions" not in record_of(Tile(3, 0, 8, {"0": 5}))
