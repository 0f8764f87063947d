"""The shim that makes calls of libc fail, and what one run of it is told."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, TypeAlias

SOURCE: Final = Path(__file__).with_name("shim.c")
#: Kinds of calls that change what is on a disk.
CHANGES: Final = "create,write,sync,rename,unlink,mkdir,truncate,allocate"
#: A call that counts: its kind and its path, empty where it has none.
Call: TypeAlias = tuple[str, str]


def build(folder: Path) -> Path:
    """The compiled shim, in ``folder``.

    Raises:
        RuntimeError: it cannot be compiled here; the message says why.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not sys.platform.startswith("linux") or compiler is None:
        raise RuntimeError("needs Linux with its glibc, and a C compiler")
    library = folder / "shim.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-lpthread"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the shim cannot be compiled here: {done.stderr.strip()[:300]}")
    return library


@dataclass(frozen=True)
class Injection:
    """A fault of some calls.

    ``kinds`` with commas between them; ``match``: pattern of paths; ``do``: the name of an error or
    of a signal, "short", "tear" or "slow"; ``at``: which of the calls of an undisturbed run, from
    0 (the first) to 1 (the last); ``lasts``: all that follow too.
    """

    kinds: str
    match: str
    do: str
    at: float = 0.0
    lasts: bool = False
    size: int = 1 << 16

    def number(self, calls: list[Call]) -> int:
        """The number of the first call that it befalls."""
        if not self.at:  # also where an undisturbed run has none
            return 1
        kinds = self.kinds.split(",")
        count = sum(
            kind in kinds and (not path or fnmatchcase(path, self.match)) for kind, path in calls
        )
        if not count:
            raise AssertionError(f"no call of {self.kinds} on {self.match}")
        return 1 + round(self.at * (count - 1))

    def environment(self, calls: list[Call]) -> dict[str, str]:
        """What tells the shim."""
        number = self.number(calls)
        told = {
            "FAULT_KINDS": self.kinds,
            "FAULT_FROM": str(number),
            "FAULT_TO": "0" if self.lasts else str(number),
            "FAULT_DO": self._action(),
            "FAULT_SIZE": str(self.size),
        }
        return told if self.match == "*" else {**told, "FAULT_MATCH": self.match}

    def _action(self) -> str:
        if self.do in ("short", "tear", "slow"):
            return self.do
        if self.do.startswith("SIG"):
            return f"signal {int(getattr(signal, self.do))}"
        return str(getattr(errno, self.do))
