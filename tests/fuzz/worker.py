"""The process that runs cases: ``python -m fuzz.worker``, started and watched by driver.py.

The case that runs is in a file that the driver can read, so that it is known when this process has
to be killed. What is found, and a summary of each target, is told as lines of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import re
import resource
import shutil
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from fuzz.mutate import mutate
from fuzz.target import Target, all_targets

MEMORY: Final = 1 << 30
#: Bytes of the file that holds the case: number, size and content.
STATE: Final = 16 << 20
HEAD: Final = struct.Struct("<QQ")
_SHRINKS: Final = 200
_POOL: Final = 400
_LARGEST: Final = 1 << 20


class State:
    """The case that runs, where the driver sees it."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), STATE)
        self.number = 0

    def begin(self, data: bytes) -> None:
        self.number += 1
        kept = data[: STATE - HEAD.size]
        self._map[HEAD.size : HEAD.size + len(kept)] = kept
        self._map[: HEAD.size] = HEAD.pack(self.number, len(kept))


def read_state(path: Path) -> tuple[int, bytes]:
    """Number and content of the case."""
    content = path.read_bytes()
    number, size = HEAD.unpack_from(content)
    return number, content[HEAD.size : HEAD.size + size]


class Worker:
    """Runs cases of one target in a folder that is empty for each."""

    def __init__(self, target: Target, state: State, scratch: Path) -> None:
        self.target, self.state, self.scratch = target, state, scratch
        self.shapes: set[str] = set()
        self.told: set[str] = set()
        self.cases = 0

    def limit_memory(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGESIZE") + MEMORY
        set_memory(limit)

    def outcome(self, data: bytes) -> tuple[str, str | None]:
        """What became of ``data``, without what is particular to it (or how it went wrong); and
        where it went wrong.
        """
        self.state.begin(data)
        self.cases += 1
        folder = self.scratch / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            found = self.target.run(data, folder)
            return f"{type(found).__name__} {found}"[:80], None
        except self.target.allowed as error:
            return f"{type(error).__name__} {_shape(str(error))}", None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return _where(error)[::-1]

    def tell(self, data: bytes, where: str, text: str) -> None:
        """Print a finding, the smallest input that was found for it."""
        if where in self.told:
            return
        self.told.add(where)
        data = self._shrunk(data, where)
        digest = hashlib.sha256(data).hexdigest()[:12]
        say(event="finding", target=self.target.name, where=where, text=text, entry=digest,
            data=data.hex())  # fmt: skip

    def _shrunk(self, data: bytes, where: str) -> bytes:
        size, tries = max(1, len(data) // 2), 0
        end = time.monotonic() + 5
        while size and tries < _SHRINKS and time.monotonic() < end:
            at = 0
            while at < len(data) and tries < _SHRINKS and time.monotonic() < end:
                less, tries = data[:at] + data[at + size :], tries + 1
                if self.outcome(less)[1] == where:
                    data = less
                else:
                    at += size
            size //= 2
        return data

    def run(self, seconds: float, seed: str, most: int | None = None) -> None:
        """Seeds first, then changes of them and of what had an outcome of its own."""
        began = time.monotonic()
        for data in islice(self._inputs(seed, began + seconds), most):
            shape, where = self.outcome(data)
            if where is not None:
                self.tell(data, where, shape)
            if shape not in self.shapes:
                self.shapes.add(shape)
                if len(self.pool) < _POOL and len(data) < _LARGEST // 8:
                    self.pool.append(data)
        say(event="done", target=self.target.name, cases=self.cases, shapes=len(self.shapes),
            seconds=round(time.monotonic() - began, 2))  # fmt: skip

    def _inputs(self, seed: str, end: float) -> Iterator[bytes]:
        seeds = self.target.seeds
        self.pool = list(seeds)
        yield from seeds
        number = 0
        while time.monotonic() < end:
            rng = Random(f"{seed} {self.target.name} {number}")
            number += 1
            chosen = rng.choice(seeds if rng.random() < 0.5 else self.pool)
            try:
                data = mutate(rng, chosen, rng.choice(self.pool), self.target.kind)
            except Exception:  # a change of changes that cannot be written, which says nothing
                continue
            if len(data) <= _LARGEST:
                yield data


def set_memory(limit: int) -> None:
    """Limit what this process maps, to what it may have at most otherwise."""
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    if most != resource.RLIM_INFINITY and (limit == resource.RLIM_INFINITY or limit > most):
        limit = most
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _shape(message: str) -> str:
    """A message without names, numbers and values."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|\d+", "*", message)[:60]


def _where(error: BaseException) -> tuple[str, str]:
    """Type of the error and the innermost function of the package that it came through; and its
    line and words.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "/mergesafe/" in each.filename] or list(frames)
    last = ours[-1]
    place = f"{last.filename.partition('/mergesafe/')[2] or last.filename}:{last.name}"
    return f"{type(error).__name__} in {place}", f"line {last.lineno}: {str(error)[:150]!r}"


def say(**fields: Any) -> None:
    os.write(_OUT, (json.dumps(fields) + "\n").encode())


#: Standard output is the driver's; what targets print goes nowhere.
_OUT = 1


def silenced() -> None:
    """Keep standard output for :func:`say` alone."""
    global _OUT
    _OUT = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    sys.setrecursionlimit(1000)


def parsed() -> argparse.Namespace:
    """What the driver says on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--cases", type=int, help="at most so many of each target")
    parser.add_argument("jobs", nargs="+", help="TARGET=SECONDS, or TARGET@FILE to run one input")
    return parser.parse_args()


def main() -> None:
    given = parsed()
    silenced()
    state, known = State(given.state), all_targets()
    for job in given.jobs:
        name, at, file = job.partition("@")
        name, _, seconds = (name, "", "") if at else job.partition("=")
        target = known[name]
        target.prepare()
        worker = Worker(target, state, given.scratch)
        say(event="begin", target=name)
        worker.limit_memory()
        if at:
            shape, where = worker.outcome(Path(file).read_bytes())
            where = where and f"{where}, {shape}"
            say(event="replayed", target=name, shape=shape, where=where, entry=file)
        else:
            worker.run(float(seconds), given.seed, given.cases)
        set_memory(resource.RLIM_INFINITY)


if __name__ == "__main__":
    main()
