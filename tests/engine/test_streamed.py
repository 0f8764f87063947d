"""Tensors that do not fit the budget: how often they are read, and what happens on a miss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import digest, recipe, save

import mergesafe
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.engine.estimate.seconds import REREAD, tensor_classes
from mergesafe.engine.plan import tiling as layout
from mergesafe.engine.run import answers, workers
from mergesafe.methods.spec import KthMagnitude

NUMEL = 6 << 20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return saved(tmp_path_factory.mktemp("models"), torch.tensor(0.001))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The far end moved more: samples of neighbours differ, so a selection collects more."""
    return saved(tmp_path_factory.mktemp("uneven"), torch.linspace(0, 0.002, NUMEL))


def saved(folder: Path, scale: torch.Tensor) -> list[Path]:
    """A base and two experts, whose differences to it have that ``scale``."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(NUMEL, generator=generator) * 0.02
    found = [save(folder / "base", {"w": base.bfloat16()})]
    for name in ("a", "b"):
        expert = base + torch.randn(NUMEL, generator=generator) * scale
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
    uneven: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sorted inputs mislead no sample, so the storage is made too small for what it collects."""
    sample = len(layout.sample_positions(NUMEL)) * layout.SAMPLE_RUN
    monkeypatch.setattr(layout, "select_bytes", lambda task, threads: 4 * (2 * sample + 64))
    missed: list[list[int]] = []
    counted: list[int] = []
    select, radix = answers._select, answers._radix

    def selecting(request: KthMagnitude, tensor: Any) -> tuple[list[int], list[int]]:
        found = select(request, tensor)
        missed.append(found[1])
        return found

    def counting(request: KthMagnitude, tensor: Any, *, planned: bool = True) -> list[int]:
        counted.append(len(request.ranks))
        return radix(request, tensor, planned=planned)

    monkeypatch.setattr(answers, "_select", selecting)
    monkeypatch.setattr(answers, "_radix", counting)
    done: list[int] = []
    planned: list[int] = []

    def progress(plan: Any, schedule: Any) -> Any:
        planned.append(schedule.bytes_read + plan.bytes_out)
        return done.append

    float32 = content(uneven) | {"dtype": "float32"}
    mergesafe.merge(float32, tmp_path / "whole32")
    assert (missed, counted) == ([], [])  # a tensor that fits is not streamed
    read = Read(monkeypatch)
    mergesafe.merge(float32, tmp_path / "out", memory="32MiB", threads=1, progress=progress)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole32")
    assert missed == [[0, 1]]  # the selection ran, and found neither expert's threshold
    assert counted == [2]
    once = 3 * 2 * NUMEL
    assert 4 * once < read.count <= 4.03 * once  # two passes more, which are no progress
    assert [sum(done)] == planned


@pytest.mark.parametrize("method", ["model_stock", "karcher", "slerp"])
def test_sums_are_read_again_in_small_tiles(
    method: str, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits is not kept where reading it again from the page cache costs less."""
    parameters = {"t": 0.4} if method == "slerp" else {}
    base = models[0] if method != "karcher" else None
    listed = models[:2] if method == "slerp" else models[1:]
    wanted = recipe(method, listed, base, parameters=parameters)
    report = mergesafe.plan(wanted, memory="1GiB", threads=2)
    assert report.schedule.layouts["w"].again
    assert report.schedule.arena < 16 << 20
    assert [each.kind for each in tensor_classes(report.plan, report.schedule)] == [REREAD]
    read = Read(monkeypatch)
    result = mergesafe.merge(wanted, tmp_path / "again", memory="1GiB", threads=2)
    assert read.count == result.bytes_read == 2 * report.plan.bytes_in
    monkeypatch.setattr(layout, "CPU_SIZES", replace(layout.CPU_SIZES, kept=1 << 30))
    monkeypatch.setattr(workers, "CPU_SIZES", layout.CPU_SIZES)
    kept = mergesafe.merge(wanted, tmp_path / "kept", memory="1GiB", threads=2)
    assert kept.bytes_read == report.plan.bytes_in
    assert digest(tmp_path / "again") == digest(tmp_path / "kept")


def test_what_is_kept(models: list[Path], tmp_path: Path) -> None:
    """Selections and small tensors."""

    def again(wanted: dict[str, Any], memory: str = "1GiB", threads: int = 2) -> bool:
        layouts = mergesafe.plan(wanted, memory=memory, threads=threads).schedule.layouts
        return any(each.again for each in layouts.values())

    stock = recipe("model_stock", models[1:], models[0])
    assert again(stock)
    assert not again(content(models))
    assert again(stock, "32MiB", 4)
    small = [save(tmp_path / f"s{i}", {"w": torch.ones(1 << 20).bfloat16()}) for i in range(3)]
    assert not again(recipe("model_stock", small[1:], small[0]))
