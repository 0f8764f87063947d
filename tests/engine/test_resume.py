"""Crashes and resumed merges: the bytes are those of an undisturbed merge."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import command, digest, leftovers, save

import mergesafe
from mergesafe.engine.run import output as run
from mergesafe.errors import ChangedInputError

from .crashing import CRASHING, OPTIONS, Merges, kill_points, tensors, usual


@pytest.fixture(params=["ties", "dare_ties", "linear"])
def merges(request: pytest.FixtureRequest, tmp_path: Path) -> Merges:
    return usual(tmp_path, request.param)


@pytest.fixture
def ties(tmp_path: Path) -> Merges:
    return usual(tmp_path, "ties")


def test_killed_at_some_points(merges: Merges) -> None:
    kill_points(merges, 4)


@pytest.mark.slow
def test_killed_at_many_points(merges: Merges) -> None:
    """67 points for each of three methods."""
    kill_points(merges, 67)


def test_killed_again_and_again(ties: Merges) -> None:
    """Every run gets a little further; other budgets and threads in between."""
    for at, memory in ((60, "500KiB"), (30, "400KiB"), (30, "700KiB"), (30, "500KiB")):
        killed = ties.run("kill", at, "--resume", "--memory", memory, "--threads", "1")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    ties.finished()


@pytest.mark.parametrize("what", ["term", "ENOSPC", "EIO"])
def test_interrupts_and_errors_keep_the_work_of_a_resumed_merge(what: str, ties: Merges) -> None:
    for at in (ties.calls // 3, ties.calls // 2):
        ties.remove()
        done = ties.run(what, at, "--resume")
        assert done.returncode == (130 if what == "term" else 2), done.stderr
        assert "finished and kept" in done.stderr
        assert not ties.out.exists()
        ties.finished()


def test_a_small_merge_without_resume_leaves_nothing(ties: Merges) -> None:
    assert ties.run("ENOSPC", ties.calls // 2).returncode == 2
    assert leftovers(ties.folder) == []


def test_power_cut(ties: Merges) -> None:
    """What was not synced may be lost or torn: tiles, the end of the journal, or both."""
    for seed in range(4):
        ties.remove()
        chance = random.Random(seed)
        ties.run("kill", chance.randrange(ties.calls // 3, ties.calls * 9 // 10))
        shard = ties.area / "model" / "model.safetensors"
        data = bytearray(shard.read_bytes())
        for begin in range(0, len(data), 4096):
            if chance.random() < 0.5:
                data[begin : begin + 4096] = bytes(len(data[begin : begin + 4096]))
        shard.write_bytes(data)
        if seed % 2:
            journal = ties.area / "journal"
            os.truncate(journal, chance.randrange(journal.stat().st_size))
        ties.finished()


def test_nothing_finished_is_done_again(ties: Merges, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed near its end, a merge reads what is left: the tile of each worker, and no statistics
    of the streamed tensor again.
    """
    from mergesafe.checkpoint.format.reader import Reader
    from mergesafe.engine import memory

    ties.run("kill", ties.calls - 25)
    journal = (ties.area / "journal").read_text().splitlines()
    tiles = [json.loads(line.split("\t")[0]) for line in journal[1:]]
    done = sum(tile["count"] for tile in tiles if "count" in tile)
    total = sum(x.numel() for x in tensors(0).values())
    assert done > 0.5 * total
    read = 0
    original = Reader.read_into

    def counted(self: Reader, info: Any, begin: int, buffer: memoryview) -> None:
        nonlocal read
        read += buffer.nbytes
        original(self, info, begin, buffer)

    monkeypatch.setattr(Reader, "read_into", counted)
    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)
    result = mergesafe.merge(ties.recipe, ties.out, memory="500KiB", threads=2, resume=True)
    assert digest(ties.out) == ties.digest
    # What the summary says is what this run did.
    size = sum(x.nbytes for x in tensors(0).values())
    factors = sum(path.stat().st_size for path in ties.folder.rglob("adapter_model.safetensors"))
    assert 0 <= read - result.bytes_read < factors  # of adapters, which are not counted
    assert result.bytes_written == size - result.resumed_bytes
    assert 0.5 * size < result.resumed_bytes < size
    # Of each element that is left at most five bytes per model: those of the adapter's factors too.
    assert read <= 4 * 8 * (total - done) + 100_000


def test_resume_starts_where_there_is_nothing(ties: Merges) -> None:
    ties.finished()


def test_a_run_without_resume_starts_afresh(ties: Merges) -> None:
    ties.run("kill", ties.calls // 2)
    assert ties.run("none", 0).returncode == 0
    assert digest(ties.out) == ties.digest
    assert leftovers(ties.folder) == []


def test_two_processes_on_one_output(ties: Merges) -> None:
    """The second is refused while the first runs, whether it resumes or not."""
    waiting = CRASHING.replace(
        'if now and what == "kill":\n            os.kill(os.getpid(), signal.SIGKILL)',
        'if now and what == "kill":\n            print("now", flush=True); sys.stdin.read()',
    )
    assert waiting != CRASHING
    arguments = ["kill", str(ties.calls // 2), "merge", str(ties.recipe), str(ties.out), *OPTIONS]
    first = subprocess.Popen(
        [sys.executable, "-c", waiting, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first.stdout is not None
    assert first.stdout.readline() == "now\n"
    for options in ((), ("--resume",)):
        done = command("merge", ties.recipe, ties.out, *options)
        assert done.returncode == 2
        assert f"another merge into this folder is running (process {first.pid})" in done.stderr
    first.communicate("")
    assert first.returncode == 0
    assert digest(ties.out) == ties.digest


def test_warnings_of_the_first_run_are_not_lost(tmp_path: Path) -> None:
    """NaN in a tensor that was finished before the crash is still reported at the end."""
    merges = usual(tmp_path, "linear")
    values = tensors(1)
    values["model.embed_tokens.weight"][0, 0] = float("nan")
    save(tmp_path / "a", values)
    rule = ("--on-nonfinite", "warn")
    assert merges.run("none", 0, *rule).returncode == 0
    expected = digest(merges.out)
    card = (merges.out / "README.md").read_text()
    assert "NaN" in card
    merges.remove()
    assert merges.run("kill", merges.calls - 20, *rule).returncode == -signal.SIGKILL
    assert merges.resume(*rule).returncode == 0
    assert digest(merges.out) == expected


@pytest.mark.parametrize("ending", ["to its end", "interrupted"])
@pytest.mark.parametrize("resume", [True, False])
def test_work_of_an_input_that_was_written_to_is_discarded(
    ending: str, resume: bool, ties: Merges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put back with its old time, the input looks as if nothing had happened: what was made of it
    must not be there to go on from.
    """
    shard = ties.folder / "a" / "model.safetensors"
    original, status = shard.read_bytes(), shard.stat()

    def progress(*_: object) -> Callable[[int], None]:
        left = 20

        def write(_: int) -> None:
            nonlocal left
            left -= 1
            shard.write_bytes(original[:5000] + bytes(len(original) - 5000))
            if ending == "interrupted" and not left:
                raise KeyboardInterrupt

        return write

    monkeypatch.setattr(run, "KEEP_BYTES", 1)
    failure = KeyboardInterrupt if ending == "interrupted" else ChangedInputError
    with pytest.raises(failure) as caught:
        mergesafe.merge(ties.recipe, ties.out, threads=1, resume=resume, progress=progress)
    assert "hat was finished is discarded" in str(caught.value)
    assert "--resume" not in str(caught.value)
    assert leftovers(ties.folder) == []
    shard.write_bytes(original)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    ties.finished()
