"""What a merge costs: memory by its budget, time by its number of tensors."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import COMMAND, recipe, save, write_recipe

import mergesafe

MIB = 1 << 20
#: Python, the extension and what else is there before the first tensor.
FIXED_MIB = 80
#: A small process, because a child starts with the peak of whoever started it.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_mib(*arguments: object) -> float:
    """Peak resident memory of the command."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, COMMAND, *map(str, arguments)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout) / 1024


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two experts of 200 MB each; one tensor does not fit 64 MiB."""
    folder = tmp_path_factory.mktemp("large")
    for name in ("base", "one", "two"):
        values = torch.randn(6 * MIB).bfloat16()
        tensors = {f"w{i}": values.clone() for i in range(13)}
        save(folder / name, {**tensors, "big": torch.cat([values] * 4)})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties"])
def test_peak_memory_is_the_budget_and_a_fixed_part(method: str, threads: int, large: Path) -> None:
    each: dict[str, Any] = {"weight": 1}
    content = recipe("linear", ["base", "one", "two"], each=each)
    if method != "linear":
        content = recipe(method, ["one", "two"], "base", each={**each, "density": 0.5})
    path = write_recipe(large / f"{method}{threads}.yml", content)
    options = ("--memory", "64MiB", "--threads", threads, "--overwrite")
    assert peak_mib("merge", path, large / "out", *options) <= 64 + FIXED_MIB


def models(folder: Path, count: int) -> dict[str, Any]:
    """A recipe for four models of ``count`` tiny tensors."""
    tensors = {f"model.layers.{i // 9}.w{i % 9}": torch.zeros(4).bfloat16() for i in range(count)}
    paths = [save(folder / f"m{i}", tensors) for i in range(4)]
    return recipe("ties", paths[1:], paths[0], each={"weight": 1, "density": 0.5})


def processor_seconds(folder: Path, count: int) -> float:
    """To plan and merge, the best of three."""
    content = models(folder / str(count), count)
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        mergesafe.merge(content, folder / "out", overwrite=True)
        best = min(best, time.process_time() - started)
    return best


def test_cost_is_linear_in_the_number_of_tensors(tmp_path: Path) -> None:
    """Eight times as many tensors: a quadratic part would show as 64 times the cost."""
    few, many = processor_seconds(tmp_path, 200), processor_seconds(tmp_path, 1600)
    assert many < 16 * few


@pytest.mark.slow
def test_fourteen_thousand_tensors_of_four_models(tmp_path: Path) -> None:
    assert processor_seconds(tmp_path, 14_000) < 8
