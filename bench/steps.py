"""Runs commands in turn, each with a time limit and a log, whatever became of the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["passed", "failed", "timed out", "skipped"]


def nothing_missing() -> str | None:
    return None


@dataclass(frozen=True)
class Step:
    """A command. ``missing`` says why it cannot be run here, or None. ``refusals``: what a command
    that fails prints when it is the machine that does not let it run, which is then skipped.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    missing: Callable[[], str | None] = nothing_missing
    refusals: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a step went; ``detail`` is one line, ``log`` the file with what it printed."""

    name: str
    status: Status
    seconds: float
    detail: str
    log: str = ""

    @property
    def good(self) -> bool:
        return self.status in ("passed", "skipped")


def run_all(
    steps: Iterable[Step],
    folder: Path,
    cwd: Path,
    total_s: float,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Every step in order, none beyond ``total_s`` seconds in all; logs go to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + total_s
    outcomes = []
    for step in steps:
        outcomes.append(run(step, folder, cwd, end - time.monotonic()))
        say(text(outcomes[-1]))
    return outcomes


def run(step: Step, folder: Path, cwd: Path, left_s: float) -> Outcome:
    """One step, for at most its own limit and ``left_s`` seconds."""
    why = step.missing()
    if why is not None:
        return Outcome(step.name, "skipped", 0.0, why)
    if left_s <= 0:
        return Outcome(step.name, "timed out", 0.0, "no time was left to start it")
    path = folder / f"{step.name}.log"
    limit = min(step.limit_s, left_s)
    started = time.monotonic()
    with path.open("wb") as log:
        try:
            status = _finish(step, log.fileno(), cwd, limit)
        except OSError as error:
            return Outcome(step.name, "failed", 0.0, f"cannot be started: {error}", str(path))
    seconds = time.monotonic() - started
    printed = path.read_text(errors="replace")
    if status is None:
        return Outcome(step.name, "timed out", seconds, f"stopped after {limit:.0f} s", str(path))
    if status == 0:
        return Outcome(step.name, "passed", seconds, last_line(printed), str(path))
    refusal = next((line for line in printed.splitlines() if _has(line, step.refusals)), None)
    if refusal is not None:
        return Outcome(step.name, "skipped", seconds, refusal.strip(), str(path))
    detail = f"exit status {status}: {last_line(printed)}"
    return Outcome(step.name, "failed", seconds, detail, str(path))


def _finish(step: Step, log: int, cwd: Path, limit_s: float) -> int | None:
    """The exit status, or None when the command and all that it started had to be killed."""
    process = subprocess.Popen(
        step.command,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **step.environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _has(line: str, parts: Iterable[str]) -> bool:
    return any(part in line for part in parts)


def last_line(printed: str) -> str:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "printed nothing"


def text(outcome: Outcome) -> str:
    """A row of the summary."""
    return f"{outcome.name:<10} {outcome.status:<10} {outcome.seconds:7.1f} s  {outcome.detail}"
