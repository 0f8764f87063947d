"""Tensors that do not fit the budget: how often they are read, and what happens on a miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import digest, recipe, save

import mergesafe
from mergesafe.checkpoint.reader import Reader
from mergesafe.engine import layout

NUMEL = 6 << 20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(NUMEL, generator=generator) * 0.02
    found = [save(folder / "base", {"w": base.bfloat16()})]
    for name in ("a", "b"):
        expert = base + torch.randn(NUMEL, generator=generator) * 0.001
        found.append(save(folder / name, {"w": expert.bfloat16()}))
    return found


def content(models: list[Path], method: str = "ties") -> dict[str, Any]:
    return recipe(method, models[1:], models[0], each={"weight": 0.5, "density": 0.3})


class Read:
    """Bytes read from inputs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = Reader.read_into

        def counted(reader: Reader, info: Any, begin: int, buffer: memoryview) -> None:
            self.count += buffer.nbytes
            original(reader, info, begin, buffer)

        monkeypatch.setattr(Reader, "read_into", counted)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_two_passes_and_a_sample(
    method: str, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mergesafe.merge(content(models, method), tmp_path / "whole")
    read = Read(monkeypatch)
    result = mergesafe.merge(content(models, method), tmp_path / "out", memory="32MiB", threads=1)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")
    once = 3 * 2 * NUMEL
    assert 2 * once < read.count <= 2.03 * once
    assert result.bytes_read == read.count


def test_a_miss_is_read_again_and_gives_the_same_bytes(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sorted inputs mislead no sample, so the storage is made too small to collect anything."""
    mergesafe.merge(content(models), tmp_path / "whole")
    sample = len(layout.sample_positions(NUMEL)) * layout.SAMPLE_RUN
    monkeypatch.setattr(layout, "select_bytes", lambda task, threads: 4 * (2 * sample + 64))
    missed = []
    original = mergesafe.engine.task_run.TaskRun._radix

    def radix(self: Any, request: Any) -> list[int]:
        missed.append(len(request.ranks))
        return original(self, request)

    monkeypatch.setattr("mergesafe.engine.task_run.TaskRun._radix", radix)
    done: list[int] = []
    planned: list[int] = []

    def progress(plan: Any, schedule: Any) -> Any:
        planned.append(schedule.bytes_read + plan.bytes_out)
        return done.append

    float32 = content(models) | {"dtype": "float32"}
    mergesafe.merge(float32, tmp_path / "whole32")
    missed.clear()
    mergesafe.merge(float32, tmp_path / "out", memory="32MiB", threads=1, progress=progress)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole32")
    assert [sum(done)] == planned
