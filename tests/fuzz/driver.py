"""Runs workers and watches them: a case that takes too long, or kills its worker, is a finding."""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fuzz.worker import STATE, read_state

#: Seconds of the processor for one case; of the clock, for one that waits (a busy machine stalls).
BUSY, IDLE = 5.0, 60.0
_TESTS: Final = Path(__file__).parents[1]
_ROOT: Final = _TESTS.parent


@dataclass
class Result:
    """What became of one target: how many cases, how many kinds of outcomes, what was found."""

    target: str
    cases: int = 0
    shapes: int = 0
    seconds: float = 0.0
    #: Where and what, with the input.
    findings: dict[str, bytes] = field(default_factory=dict)


def fuzz(
    targets: Sequence[str],
    seconds: float,
    seed: str,
    cases: int | None = None,
    *,
    guided: bool = False,
) -> Iterator[Result]:
    """Each target for ``seconds`` and at most so many ``cases``, one after the other.

    ``guided``: by coverage, for which there must be one target, atheris, and no ``cases``.
    """
    worker = "fuzz.guided" if guided else "fuzz.worker"
    left = dict.fromkeys(targets, seconds)
    restarts = 0
    results = {name: Result(name) for name in targets}
    while left:
        jobs = [f"{name}={each:.3f}" for name, each in left.items()]
        # After a kill, other cases: the same seed would lead to the same case.
        for event in _events(jobs, f"{seed}.{restarts}", cases, worker):
            result = results[event["target"]]
            if event["event"] == "begin":
                began = time.monotonic()
            elif event["event"] == "finding":
                where = f"{event['where']}, {event['text']}"
                result.findings[where] = bytes.fromhex(event["data"])
            elif event["event"] == "killed":
                restarts += 1
                result.findings.setdefault(event["where"], event["data"])
                result.cases += event["number"]
                spent = time.monotonic() - began
                result.seconds += spent
                if result.target in left:
                    left[result.target] -= max(spent, 1.0)
                if left.get(result.target, 1.0) <= 0.5:
                    del left[result.target]
                    yield result
            elif event["event"] == "done":
                result.cases += event["cases"]
                result.shapes += event["shapes"]
                result.seconds += event["seconds"]
                del left[result.target]
                yield result


def replay(entries: Mapping[Path, str]) -> Iterator[tuple[Path, str | None, str]]:
    """Run single inputs, each of the target that is named: what was wrong, or None, and more."""
    left = dict(entries)
    while left:
        order = list(left)
        for event in _events([f"{name}@{path}" for path, name in left.items()], "0"):
            if event["event"] == "replayed":
                path = Path(event["entry"])
                del left[path]
                yield path, event["where"], event["shape"]
            elif event["event"] == "killed":
                path = order[len(order) - len(left)]
                del left[path]
                yield path, event["where"], ""


def _events(
    jobs: Sequence[str], seed: str, cases: int | None = None, worker: str = "fuzz.worker"
) -> Iterator[dict[str, Any]]:
    """What a worker says; at its end ``killed``, if it did not end by itself."""
    scratch = Path(tempfile.mkdtemp(prefix="mergesafe-fuzz-"))
    state = scratch / "state"
    with state.open("wb") as file:
        file.truncate(STATE)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(_TESTS), str(_ROOT), os.environ.get("PYTHONPATH", ""))),
        "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0", "TMPDIR": str(scratch),
    }  # fmt: skip
    command = [
        sys.executable, "-W", "ignore", "-m", worker, "--state", str(state), "--scratch",
        str(scratch), "--seed", seed, *(() if cases is None else ("--cases", str(cases))), *jobs,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, cwd=scratch
    )
    target = ""
    begun = 0
    try:
        for event in _watched(process, state):
            if event["event"] == "begin":
                target, begun = event["target"], read_state(state)[0]
            if event["event"] == "killed":
                assert target, f"{worker} did not begin: {event['where']}"
                event["target"] = target
                event["number"] -= begun
            yield event
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _watched(worker: subprocess.Popen[bytes], state: Path) -> Iterator[dict[str, Any]]:
    assert worker.stdout is not None
    number, since, busy = 0, time.monotonic(), _busy(worker.pid)
    lines = b""
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(0.25):
                more = os.read(worker.stdout.fileno(), 1 << 20)
                lines += more
                *whole, lines = lines.split(b"\n")
                for line in whole:
                    yield json.loads(line)
                if not more:
                    break
            now = _number(state)
            if now != number:
                number, since, busy = now, time.monotonic(), _busy(worker.pid)
            elif number and (_busy(worker.pid) - busy > BUSY or time.monotonic() - since > IDLE):
                worker.kill()
                worker.wait()
                yield _killed(state, "Hang: more than 5 s")
                return
    if worker.wait():
        yield _killed(state, f"the process ended with {worker.returncode}")


def _killed(state: Path, where: str) -> dict[str, Any]:
    number, data = read_state(state)
    return {
        "event": "killed",
        "where": f"{where} ({_digest(data)})",
        "data": data,
        "number": number,
    }


def _number(state: Path) -> int:
    with state.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _busy(pid: int) -> float:
    """Seconds that the process and the children that it waited for have computed."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(each) for each in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def keep(result: Result, folder: Path) -> list[tuple[str, Path]]:
    """Write what was found as entries of the corpus; what and where."""
    written = []
    for where, data in result.findings.items():
        path = folder / result.target / f"crash-{_digest(data)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        written.append((where, path))
    return written
