"""Ctrl-C, SIGTERM, kill -9 and inputs that change during a merge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from family import Family
from tiny import (
    COMMAND,
    Tensors,
    command,
    leftovers,
    read,
    recipe,
    save,
    signals,
    write_recipe,
)

from .helpers import one_paragraph

TIMEOUT = 60
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def slow_merge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that takes seconds with the reference backend on one thread."""
    return a_merge(tmp_path_factory.mktemp("slow"), 150)


def a_merge(folder: Path, count: int) -> Path:
    """A recipe that merges ``count`` tensors."""
    for name in ("base", "one", "two"):
        tensors: Tensors = {f"w{i}": torch.randn(1 << 16).bfloat16() for i in range(count)}
        save(folder / name, tensors)
    each = {"weight": 1, "density": 0.5}
    return write_recipe(folder / "r.yml", recipe("dare_ties", ["one", "two"], "base", each=each))


def started(
    recipe: Path, out: Path, *options: str, action: signal.Handlers = signal.SIG_DFL
) -> subprocess.Popen[str]:
    """A merge that has begun to write: its temporary folder is there."""
    with signals(action):
        process = subprocess.Popen(
            [COMMAND, "merge", recipe, out, "--backend", "reference", "--threads", "1", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Threads that spin slow down a busy machine.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    end = time.monotonic() + TIMEOUT
    while not leftovers(out.parent):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    return process


@pytest.mark.parametrize("number", INTERRUPTS)
@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_interrupt_leaves_nothing(
    slow_merge: Path, tmp_path: Path, number: signal.Signals, delay: float
) -> None:
    process = started(slow_merge, tmp_path / "out")
    time.sleep(delay)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert stdout == ""
    assert "interrupted" in one_paragraph(stderr)
    assert list(tmp_path.iterdir()) == []


def test_signals_that_are_ignored_stay_ignored(tmp_path: Path) -> None:
    """As under nohup, or in the background of a script; the merge goes on to its end."""
    process = started(a_merge(tmp_path, 40), tmp_path / "out", action=signal.SIG_IGN)
    for number in INTERRUPTS:
        process.send_signal(number)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr


def test_interrupt_keeps_the_old_output(slow_merge: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    process = started(slow_merge, out, "--overwrite")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert [path.name for path in out.iterdir()] == ["old.txt"]
    assert leftovers(tmp_path) == []


def test_impatient_interrupts(slow_merge: Path, tmp_path: Path) -> None:
    process = started(slow_merge, tmp_path / "out")
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


def test_kill_leaves_no_output_and_the_next_merge_works(slow_merge: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(slow_merge, out)
    process.kill()
    process.communicate(timeout=TIMEOUT)
    assert not out.exists()
    assert command("merge", slow_merge, out).returncode == 0
    assert len(read(out)) == 150


# --- inputs that change --------------------------------------------------------------------------

#: The command, but the file that the last argument names changes between plan and streaming.
CHANGING = """
import os, sys
from mergesafe.cli import merge
from mergesafe.cli.main import main
victim, size = sys.argv.pop(), int(sys.argv.pop())
def change(plan, schedule):
    os.truncate(victim, size) if size >= 0 else os.unlink(victim)
    return lambda nbytes: None
original = merge.merge_checkpoints
merge.merge_checkpoints = lambda *a, **k: original(*a, **{**k, "progress": change})
main()
"""


@pytest.fixture
def linear(family: Family) -> Iterator[Path]:
    content = recipe("linear", family.models, each={"weight": 1})
    yield write_recipe(family.folder / "r.yml", content)
    assert not (family.folder / "out").exists()
    assert leftovers(family.folder) == []


def merge_with_change(recipe: Path, size: int, victim: Path) -> str:
    arguments = ["merge", recipe, recipe.parent / "out", str(size), victim]
    done = subprocess.run(
        [sys.executable, "-c", CHANGING, *map(str, arguments)],
        capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    return one_paragraph(done.stderr)


def test_input_that_shrinks(linear: Path, family: Family) -> None:
    shard = family.experts[0] / "model.safetensors"
    error = merge_with_change(linear, shard.stat().st_size - 100, shard)
    for word in (str(shard), "written to or replaced after its header was read", "run again"):
        assert word in error


def test_input_that_vanishes(linear: Path, family: Family) -> None:
    shard = family.experts[0] / "model.safetensors"
    error = merge_with_change(linear, -1, shard)
    for word in (str(shard), "tensor '", "put the shard back"):
        assert word in error


# --- our own mistakes ----------------------------------------------------------------------------

BROKEN = """
from mergesafe.cli import merge
from mergesafe.cli.main import main
def fail(*a, **k): raise ZeroDivisionError("a mistake\\nin two lines")
merge.merge_checkpoints = fail
main()
"""


@pytest.mark.parametrize("debug", [False, True])
def test_internal_error(debug: bool, tmp_path: Path) -> None:
    arguments = ["merge", "r.yml", str(tmp_path / "out"), *(["--debug"] if debug else [])]
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) == debug
    error = done.stderr.splitlines()[-1]
    for word in ("internal error (ZeroDivisionError: a mistake", "bug in mergesafe", "--debug"):
        assert word in error
