"""Runs of one command, disturbed and not, and what each may leave behind."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tiny import signals

from .shim import Call, Injection

TIMEOUT: Final = 120
#: The command, with the smallest budget lifted, so that small tensors are streamed in tiles.
_LAUNCH: Final = """
import sys
sys.argv[0] = "mergesafe"
from mergesafe.engine import memory
memory.MINIMUM_BUDGET = 1
from mergesafe.cli.main import main
main()
"""
#: Statuses that a command may end with: done, refused, not met, interrupted.
_STATUSES: Final = (0, 2, 3, 130)
#: What differs between two runs of the same, by design.
_PASSING: Final = re.compile(rb'"backend": "\w+"|"(seconds|created|elapsed)[^,}]*')


class Skip(Exception):
    """A fault that cannot be tried here; says why."""


@dataclass(frozen=True)
class Ran:
    """How a run ended. ``status`` is minus the signal that killed it."""

    status: int
    stdout: str
    stderr: str
    hits: int

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Bench:
    """A command in a folder of its own: ``inputs`` is what it reads, ``disk`` what it writes to.

    ``again``: options of a run that goes on from what an earlier one left; ``afresh``: of one that
    starts anew. ``whole``: all files appear together, in place of each by itself. ``old``: what
    lies where the output goes, by name. ``writes``: whether it writes at all. ``kept``: names that
    may stay when a run failed and say nothing about the result.
    """

    def __init__(
        self,
        folder: Path,
        shim: Path,
        arguments: Sequence[object],
        *,
        again: Sequence[str] = (),
        afresh: Sequence[str] = (),
        whole: bool = True,
        old: dict[str, str] | None = None,
        writes: bool = True,
        kept: Sequence[str] = (),
        passing: Callable[[bytes], bytes] = lambda content: content,
    ) -> None:
        self.folder, self.shim = folder, shim
        self.inputs, self.disk = folder / "inputs", folder / "disk"
        self.image, self.log = folder / "image", folder / "log"
        self.arguments = tuple(map(str, arguments))
        self.again, self.afresh, self.whole = tuple(again), tuple(afresh), whole
        self.old, self.kept, self._passing = dict(old or {}), tuple(kept), passing
        self.pristine = folder / "pristine"
        shutil.copytree(self.inputs, self.pristine, symlinks=True)
        self.reset()
        self.before = self.result()
        ran = self.run(environment={"FAULT_KINDS": "all", "FAULT_DO": "count"})
        assert ran.status == 0, ran
        self.calls: list[Call] = []
        for line in self.log.read_text().splitlines():
            _, kind, _, path = line.split("\t")
            self.calls.append((kind, path))
        self.after = self.result()
        assert (self.after != self.before) == writes
        assert self.leftovers() == []

    def reset(self) -> None:
        """Inputs as they were first, nothing on the disk but what was old there."""
        for folder in (self.disk, self.image, self.inputs):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.pristine, self.inputs, symlinks=True)  # times too
        self.disk.mkdir()
        self.image.mkdir()
        for name, content in self.old.items():
            (self.disk / name).parent.mkdir(parents=True, exist_ok=True)
            (self.disk / name).write_text(content)

    # --- runs ------------------------------------------------------------------------------------

    def start(
        self,
        *options: str,
        environment: dict[str, str] | None = None,
        launch: str = _LAUNCH,
        wrap: Sequence[str] = (),
        **started: Any,
    ) -> subprocess.Popen[bytes]:
        """The command, with what it prints in temporary files."""
        told = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.log.unlink(missing_ok=True)
        if environment is not None:
            told |= {
                "LD_PRELOAD": str(self.shim), "FAULT_ROOT": str(self.folder),
                "FAULT_LOG": str(self.log), **environment,
            }  # fmt: skip
        with ExitStack() as stack:
            for name in ("stdout", "stderr"):
                self._printed(name).unlink(missing_ok=True)
                if name not in started:
                    started[name] = stack.enter_context(self._printed(name).open("wb"))
            stack.enter_context(signals(signal.SIG_DFL))
            return subprocess.Popen(
                [*wrap, sys.executable, "-c", launch, *self.arguments, *options],
                cwd=self.inputs, env=told, stdin=subprocess.DEVNULL, **started,
            )  # fmt: skip

    def finish(self, process: subprocess.Popen[bytes]) -> Ran:
        """Wait for the end of what :meth:`start` started."""
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"no end after {TIMEOUT} seconds") from None
        printed = [
            path.read_text(errors="replace") if path.exists() else ""
            for path in (self._printed("stdout"), self._printed("stderr"))
        ]
        hits = self.log.read_text().count("\thit\t") if self.log.exists() else 0
        return Ran(process.returncode, printed[0], printed[1], hits)

    def _printed(self, name: str) -> Path:
        return self.folder / name

    def run(self, *options: str, **how: Any) -> Ran:
        """Run the command to its end."""
        return self.finish(self.start(*options, **how))

    def inject(self, fault: Injection, *options: str, **how: Any) -> Ran:
        """Run the command while ``fault`` befalls it."""
        told = {**fault.environment(self.calls), **how.pop("environment", {})}
        ran = self.run(*options, environment=told, **how)
        assert ran.hits or ran.killed, f"the fault was never hit: {ran}"
        return ran

    # --- what is left ----------------------------------------------------------------------------

    def result(self) -> dict[str, str]:
        """Digests of the files that the command wrote, by their names below the disk."""
        found = {}
        for path in sorted(self.disk.rglob("*")):
            name = str(path.relative_to(self.disk))
            hidden = any(part.startswith(".") for part in Path(name).parts)
            if path.is_file() and not hidden and name not in self.kept:
                content = self._passing(_PASSING.sub(b"", path.read_bytes()))
                found[name] = hashlib.sha256(content).hexdigest()
        return found

    def leftovers(self) -> list[str]:
        """Hidden files and folders on the disk."""
        return sorted(
            str(path.relative_to(self.disk))
            for path in self.disk.rglob(".*")
            if path.parent == self.disk or not path.parent.name.startswith(".")
        )

    def check_whole(self) -> None:
        """What is there is the old or the new, whole."""
        now = self.result()
        if self.whole:
            wrong = [name for name in self.after if now.get(name) != self.after[name]]
            assert now in (self.before, self.after), f"neither old nor new: {wrong}"
            return
        for name in now.keys() | self.before.keys():
            assert now.get(name) in (self.before.get(name), self.after.get(name)), name

    def check(self, ran: Ran, *, may_keep: bool = False, may_kill: bool = False) -> None:
        """The run ended as documented, and left nothing that is half made."""
        if ran.status < 0:
            assert may_kill, ran
            assert ran.killed, f"killed by signal {-ran.status}: {ran.stderr}"
        else:
            assert ran.status in _STATUSES, ran
            self.check_words(ran)
        self.check_whole()
        if ran.status in (0, 3):
            assert self.result() == self.after, "reports success"
        if ran.status >= 0 and not may_keep and "could not be removed" not in ran.stderr:
            left = [name for name in self.leftovers() if name not in self.kept]
            assert left == [], f"left behind: {left} after {ran}"

    def check_words(self, ran: Ran) -> None:
        """Errors are one paragraph without a traceback."""
        assert "Traceback" not in ran.stderr, ran.stderr
        lines = [line for line in ran.stderr.splitlines() if line]
        for line in lines:
            assert line.startswith("mergesafe: "), ran.stderr
        errors = [line for line in lines if line.startswith("mergesafe: error: ")]
        assert bool(errors) == (ran.status in (2, 130)), ran

    def recover(self) -> None:
        """Run again, without faults: the bytes are those of an undisturbed run, and all is tidy."""
        ran = self.run(*self.again)
        if ran.status == 2:  # a refusal that names its cause, then
            self.check_words(ran)
            ran = self.run(*self.afresh)
        assert ran.status == 0, f"run again: {ran}"
        assert self.result() == self.after, "run again: other bytes"
        assert self.leftovers() == [], f"run again: left behind {self.leftovers()}"
