"""Merges in a process of their own, which kills itself at its n-th call that changes a file.

So every kill point can be reached and repeated.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
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

from mergesafe.engine import memory

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
    """A recipe, the digest of its undisturbed output, and runs of it.

    ``before``: Python that every run executes first. ``options``: over :data:`OPTIONS`.
    """

    def __init__(
        self, folder: Path, content: dict[str, Any], before: str = "", *options: str
    ) -> None:
        self.folder, self.out = folder, folder / "out"
        self.recipe = write_recipe(folder / "r.yml", content)
        self._code, self._options = before + CRASHING, options
        calls = self.run("count", 0)
        assert calls.returncode == 0, calls.stderr
        self.calls = int(calls.stdout)
        self.digest = digest(self.out)
        self.remove()

    def run(self, what: str, at: int, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = ["merge", self.recipe, self.out, *OPTIONS, *self._options, *options]
        if what == "none" and self._code == CRASHING:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(memory, "MINIMUM_BUDGET", 1)
                return command(*arguments)
        with signals(signal.SIG_DFL):
            process = subprocess.Popen(
                [sys.executable, "-c", self._code, what, str(at), *map(str, arguments)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        printed = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, *printed)

    def resume(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("none", 0, "--resume", *options)

    def remove(self) -> None:
        subprocess.run(["rm", "-rf", str(self.out), *map(str, self.folder.glob(".out*"))])

    @property
    def area(self) -> Path:
        (found,) = self.folder.glob(".out.mergesafe-*")
        return found

    def finished(self, *options: str) -> None:
        """Resume until the end, and compare."""
        done = self.resume(*options)
        assert done.returncode == 0, done.stderr
        assert digest(self.out) == self.digest
        assert leftovers(self.folder) == []


def usual(folder: Path, method: str) -> Merges:
    """A merge of two experts and one with an adapter, of which BIG is streamed."""
    base, a, b = (save(folder / n, tensors(i)) for i, n in enumerate(("base", "a", "b")))
    adapter = save_adapter(folder / "adapter", tensors(0), 1)
    models: list[Path | str] = [a, b, f"{base}+{adapter}"]
    each: dict[str, Any] = {"weight": 0.4}
    if method != "linear":
        each["density"] = 0.5
    return Merges(folder, recipe(method, models, None if method == "linear" else base, each=each))


def kill_points(merges: Merges, count: int) -> None:
    for at in sorted(random.Random(0).sample(range(1, merges.calls), count)):
        merges.remove()
        killed = merges.run("kill", at)
        assert killed.returncode == -signal.SIGKILL, (at, killed.stderr)
        merges.finished()


def other_recipe(merges: Merges) -> None:
    merges.recipe.write_text(merges.recipe.read_text().replace("0.4", "0.6"))


def other_scale(merges: Merges) -> None:
    """lora_alpha, with the time of the file as it was."""
    path = merges.folder / "adapter" / "adapter_config.json"
    status = path.stat()
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 60}))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
