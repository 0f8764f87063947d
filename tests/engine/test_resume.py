"""Crashes and resumed merges: the bytes are those of an undisturbed merge, or the error is named.

A child process runs the command and kills itself at its n-th system call that changes a file, so
that every kill point can be reached and repeated.
"""

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
import torch
from tiny import (
    Tensors,
    command,
    digest,
    leftovers,
    llama,
    recipe,
    save,
    save_adapter,
    signals,
    write_recipe,
)

import mergesafe
from mergesafe.engine.run import output as run
from mergesafe.errors import ChangedInputError

#: Counts calls that change files; at number AT does WHAT: kill, term, ENOSPC, EIO, or nothing but
#: print the count at the end. The smallest budget is lifted, so that small tensors are streamed.
CRASHING = """
import errno, os, signal, sys, threading
from mergesafe.engine import memory
from mergesafe.cli.main import main
memory.MINIMUM_BUDGET = 1
what, at = sys.argv.pop(1), int(sys.argv.pop(1))
calls, lock = 0, threading.Lock()
def watched(name):
    original = getattr(os, name)
    def call(*arguments, **options):
        global calls
        with lock:
            calls += 1
            now = calls == at
        if now and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if now and what == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if now and what in ("ENOSPC", "EIO"):
            raise OSError(getattr(errno, what), os.strerror(getattr(errno, what)))
        return original(*arguments, **options)
    setattr(os, name, call)
for name in ("pwrite", "write", "fsync", "replace", "rename", "mkdir", "ftruncate"):
    watched(name)
try:
    main()
finally:
    if what == "count":
        print(calls)
"""
BIG = "model.layers.0.mlp.big.weight"
#: BIG is streamed in several tiles, LoRA and integers are there, everything else is one tile.
OPTIONS = ("--memory", "500KiB", "--threads", "2", "--quiet")


def tensors(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        **llama(seed),
        BIG: torch.randn(310, 301, generator=generator).bfloat16(),
        "ids": torch.arange(2000),
    }


class Merges:
    """A recipe, the digest of its undisturbed output, and runs of it."""

    def __init__(self, folder: Path, method: str) -> None:
        self.folder, self.out = folder, folder / "out"
        base, a, b = (save(folder / n, tensors(i)) for i, n in enumerate(("base", "a", "b")))
        adapter = save_adapter(folder / "adapter", tensors(0), 1)
        models: list[Path | str] = [a, b, f"{base}+{adapter}"]
        each: dict[str, Any] = {"weight": 0.4}
        if method != "linear":
            each["density"] = 0.5
        content = recipe(method, models, None if method == "linear" else base, each=each)
        self.recipe = write_recipe(folder / "r.yml", content)
        calls = self.run("count", 0)
        assert calls.returncode == 0, calls.stderr
        self.calls = int(calls.stdout)
        self.digest = digest(self.out)
        self.remove()

    def run(self, what: str, at: int, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = ["merge", self.recipe, self.out, *OPTIONS, *options]
        with signals(signal.SIG_DFL):
            process = subprocess.Popen(
                [sys.executable, "-c", CRASHING, what, str(at), *map(str, arguments)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        printed = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, *printed)

    def resume(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("none", 0, "--resume", *options)

    def remove(self) -> None:
        subprocess.run(["rm", "-rf", str(self.out), *map(str, self.folder.glob(".out*"))])

    @property
    def area(self) -> Path:
        (found,) = self.folder.glob(".out.mergesafe-*")
        return found

    def finished(self) -> None:
        """Resume until the end, and compare."""
        done = self.resume()
        assert done.returncode == 0, done.stderr
        assert digest(self.out) == self.digest
        assert leftovers(self.folder) == []


@pytest.fixture(params=["ties", "dare_ties", "linear"])
def merges(request: pytest.FixtureRequest, tmp_path: Path) -> Merges:
    return Merges(tmp_path, request.param)


@pytest.fixture
def ties(tmp_path: Path) -> Merges:
    return Merges(tmp_path, "ties")


@pytest.fixture
def finished(tmp_path: Path) -> Merges:
    merges = Merges(tmp_path, "dare_ties")
    merges.finished()
    return merges


def kill_points(merges: Merges, count: int) -> None:
    for at in sorted(random.Random(0).sample(range(1, merges.calls), count)):
        merges.remove()
        killed = merges.run("kill", at)
        assert killed.returncode == -signal.SIGKILL, (at, killed.stderr)
        merges.finished()


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


def test_resume_of_a_finished_merge_does_nothing(ties: Merges) -> None:
    ties.finished()
    before = (ties.out / "model.safetensors").stat()
    done = command("merge", ties.recipe, "out", "--resume", "--json", cwd=ties.folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "finished already" in found["warnings"][-1]
    assert found["out"] == str(ties.out)
    assert (found["bytes_read"], found["bytes_written"]) == (0, 0)
    assert (ties.out / "model.safetensors").stat() == before


def other_recipe(merges: Merges) -> None:
    merges.recipe.write_text(merges.recipe.read_text().replace("0.4", "0.6"))


def written_to(merges: Merges) -> None:
    os.utime(merges.folder / "a" / "model.safetensors")


def tokenizer(merges: Merges) -> None:
    (merges.folder / "base" / "tokenizer.json").write_text("{}")


def other_header(merges: Merges) -> None:
    """As large as before, and older than the merge."""
    shard = merges.folder / "a" / "model.safetensors"
    old = shard.stat()
    shard.write_bytes(shard.read_bytes().replace(b'"pt"', b'"tp"'))
    os.utime(shard, ns=(old.st_atime_ns, old.st_mtime_ns))


def lost_shard(merges: Merges) -> None:
    (merges.out / "model.safetensors").unlink()


def cut_shard(merges: Merges) -> None:
    os.truncate(merges.out / "model.safetensors", 1000)


def lost_config(merges: Merges) -> None:
    (merges.out / "config.json").unlink()


def other_scale(merges: Merges) -> None:
    """lora_alpha, with the time of the file as it was."""
    path = merges.folder / "adapter" / "adapter_config.json"
    status = path.stat()
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 60}))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touched_adapter(merges: Merges) -> None:
    os.utime(merges.folder / "adapter" / "adapter_config.json")


FINISHED: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "recipe": (other_recipe, (), "the recipe has changed since"),
    "seed": (None, ("--seed", "1"), "--seed"),
    "rule": (None, ("--on-nonfinite", "zero"), "--on-nonfinite"),
    "shards": (None, ("--max-shard-size", "90kB"), "--max-shard-size"),
    "input": (written_to, (), "a/model.safetensors was written to after it"),
    "tokenizer": (tokenizer, (), "base/tokenizer.json was written to after it"),
    "header": (other_header, (), "has another size or header than at that merge"),
    "adapter": (touched_adapter, (), "adapter/adapter_config.json was written to after it"),
    "lost shard": (lost_shard, (), "its 'model.safetensors' is missing"),
    "cut shard": (cut_shard, (), "its model.safetensors has 1,000 bytes instead of"),
    "lost configuration": (lost_config, (), "its 'config.json' is missing"),
}


@pytest.mark.parametrize("change", FINISHED)
def test_a_finished_merge_of_something_else(change: str, finished: Merges) -> None:
    """Refused with the difference; --overwrite makes it again."""
    act, options, message = FINISHED[change]
    if act is not None:
        act(finished)
    done = finished.resume(*options)
    assert done.returncode == 2, done.stderr
    assert "a merge is finished there, but " in done.stderr
    assert message in done.stderr
    assert "--overwrite" in done.stderr
    again = finished.resume(*options, "--overwrite")
    assert again.returncode == 0, again.stderr
    assert command("verify", finished.out).returncode == 0
    assert finished.resume(*options).returncode == 0


def test_a_finished_merge_with_another_scale(finished: Merges) -> None:
    other_scale(finished)
    done = finished.resume()
    assert done.returncode == 2, done.stderr
    assert "was made with the LoRA scale 2.0 of" in done.stderr


def test_a_run_without_resume_starts_afresh(ties: Merges) -> None:
    ties.run("kill", ties.calls // 2)
    assert ties.run("none", 0).returncode == 0
    assert digest(ties.out) == ties.digest
    assert leftovers(ties.folder) == []


def other_input(merges: Merges) -> None:
    shard = merges.folder / "a" / "model.safetensors"
    status = shard.stat()
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def other_version(merges: Merges) -> None:
    """The journal of another version, with a valid check."""
    from mergesafe.engine.resume import journal

    path = merges.area / "journal"
    first, _, rest = path.read_text().partition("\n")
    subject = json.loads(first.split("\t")[0])
    subject["mergesafe_version"] = "0.0.9"
    path.write_text(journal.encode_line(subject) + rest)


CHANGES: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "recipe": (other_recipe, (), "the recipe has changed since"),
    "input": (other_input, (), "model.safetensors has changed since (mtime_ns)"),
    "scale": (other_scale, (), "adapter_config.json counts too) has changed since."),
    "version": (other_version, (), "begun by mergesafe 0.0.9"),
    "seed": (None, ("--seed", "1"), "--seed"),
    "rule": (None, ("--on-nonfinite", "zero"), "--on-nonfinite"),
    "shards": (None, ("--max-shard-size", "90kB"), "--max-shard-size"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_work_is_not_resumed(change: str, ties: Merges) -> None:
    ties.run("kill", ties.calls // 2)
    before = (ties.area / "model" / "model.safetensors").read_bytes()
    act, options, message = CHANGES[change]
    if act is not None:
        act(ties)
    done = ties.resume(*options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "without --resume" in done.stderr
    assert (ties.area / "model" / "model.safetensors").read_bytes() == before  # nothing is lost


def test_a_journal_that_says_nothing_of_the_tensors_is_resumed(ties: Merges) -> None:
    """As earlier builds of this version wrote it."""
    from mergesafe.engine.resume import journal
    from mergesafe.engine.resume.unfinished import TENSORS

    ties.run("kill", ties.calls // 2)
    path = ties.area / "journal"
    first, _, rest = path.read_text().partition("\n")
    subject = json.loads(first.split("\t")[0])
    del subject["options"][TENSORS]
    path.write_text(journal.encode_line(subject) + rest)
    ties.finished()


def test_a_manifest_that_says_no_scale_is_finished(finished: Merges) -> None:
    path = finished.out / "mergesafe-manifest.json"
    content = json.loads(path.read_text())
    scales = [x for t in content["tensors"].values() for x in t["inputs"] if "lora_scale" in x]
    assert scales
    for each in scales:
        assert each.pop("lora_scale") == 2.0
    path.write_text(json.dumps(content))
    done = finished.resume()
    assert done.returncode == 0, done.stderr


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
    merges = Merges(tmp_path, "linear")
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
