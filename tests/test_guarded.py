"""Functions that hang, swell, crash and flood, in a process that is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny import signals

import mergesafe
from mergesafe.guarded import (
    Crashed,
    Guard,
    GuardedError,
    Raised,
    TookTooLong,
    TookTooMuch,
    guarded,
)

TARGETS = "guarded_targets"
ROOT = Path(mergesafe.__file__).parents[1]


def call(name: str, argument: Any = None, **options: Any) -> Any:
    return guarded(f"{TARGETS}:{name}", argument, **options)


def gone(pid: int) -> bool:
    """Whether a process ends within seconds; a zombie has ended."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_json_goes_in_and_comes_out() -> None:
    value = {"a": [1, 2.5, None, True, "ü\ud800"], "b": {"c": "x" * 3_000_000}}
    assert call("same", value) == value


def test_the_process_sees_nothing_of_the_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with open(__file__) as opened:
        os.set_inheritable(opened.fileno(), True)
        seen = call("surroundings")
    assert not {"HF_TOKEN", "HOME", "PATH"} & set(seen["environment"])
    assert seen["kept"] == ["/dev/null"]
    assert seen["session"] == seen["pid"]
    assert seen["read"] == ""
    assert seen["mergesafe"] == mergesafe.__file__
    assert seen["stopped"]


@pytest.mark.parametrize(
    ("name", "argument", "error", "words"),
    [
        ("memory", None, TookTooMuch, "more than 300 MiB of memory"),
        ("hoard", None, TookTooMuch, "more than 300 MiB of memory"),
        ("tower", 9, TookTooLong, "longer than 0.5 s"),
        ("sleep", 60, TookTooLong, "longer than 0.5 s"),
        ("crash", None, Crashed, "ended by signal 11"),
        ("leave", 0, Crashed, "ended with status 0"),
        ("leave", 7, Crashed, "ended with status 7"),
        ("flood", 2_000_000, TookTooMuch, "2,000,0.. bytes, more than 1,000,000"),
        ("nested", 5, None, ""),
        ("nested", 100_000, Raised, "RecursionError"),
        ("fail", "why", Raised, "LookupError: 'why'|LookupError: why"),
        ("fail", "why" * 10_000, Raised, "LookupError"),
        ("refuse_to_say", None, Raised, "^Silent$"),
        ("leave_by_exit", None, Raised, "SystemExit"),
        ("no_json", None, Raised, "TypeError"),
        ("big_number", None, Raised, "ValueError"),
        ("absent", None, Raised, "AttributeError"),
        ("chatter", 1_000_000, None, ""),
    ],
)
def test_every_end_is_an_answer_or_one_error(
    name: str, argument: Any, error: type[GuardedError] | None, words: str
) -> None:
    seconds = 0.5 if error is TookTooLong else 20
    with Guard(seconds=seconds, memory=300 << 20, answer=1_000_000) as guard:
        if error is None:
            guard(f"{TARGETS}:{name}", argument)
        else:
            with pytest.raises(error, match=words) as caught:
                guard(f"{TARGETS}:{name}", argument)
            assert len(str(caught.value)) < 3_000
        assert guard(f"{TARGETS}:same", "still here", seconds=20) == "still here"


def test_what_is_no_json_is_not_sent() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (object(), deep):
        with pytest.raises(Raised):
            call("same", value)


def test_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(Raised, match="File too large"):
        call("write", str(tmp_path / "file"))


def test_calls_of_one_guard_share_a_process_until_it_is_killed() -> None:
    with Guard(seconds=20) as guard:
        first, second = (guard(f"{TARGETS}:surroundings", None)["pid"] for _ in range(2))
        assert first == second
        with pytest.raises(Raised):
            guard(f"{TARGETS}:fail", "")
        assert guard(f"{TARGETS}:surroundings", None)["pid"] == first
        with pytest.raises(TookTooLong):
            guard(f"{TARGETS}:tower", 9, seconds=0.5)
        third = guard(f"{TARGETS}:surroundings", None)["pid"]
        assert third != first
        assert gone(first)
        os.kill(third, signal.SIGKILL)
        assert gone(third)
        assert guard(f"{TARGETS}:surroundings", None)["pid"] != third
    began = time.monotonic()
    guard.close()
    assert time.monotonic() - began < 1


def test_seconds_of_earlier_calls_do_not_count() -> None:
    """A limit of the processor's time adds up over the life of a process."""
    with Guard(seconds=30) as guard:
        for _ in range(2):
            guard(f"{TARGETS}:busy", 0.5)
            assert 30 <= guard(f"{TARGETS}:time_left", None) <= 32


def test_threads_take_turns() -> None:
    with Guard() as guard, ThreadPoolExecutor(8) as pool:
        values = list(range(100))
        assert list(pool.map(lambda v: guard(f"{TARGETS}:same", v), values)) == values


def test_a_thread_that_started_the_process_may_end_before_it() -> None:
    with Guard() as guard:
        with ThreadPoolExecutor(1) as pool:
            pid = pool.submit(guard, f"{TARGETS}:surroundings", None).result()["pid"]
        assert guard(f"{TARGETS}:surroundings", None)["pid"] == pid


def test_a_forgotten_guard_ends_its_process() -> None:
    guard = Guard()
    pid = guard(f"{TARGETS}:surroundings", None)["pid"]
    del guard
    assert gone(pid)


PARENT = """
import sys
from mergesafe.guarded import Guard
guard = Guard(seconds=60)
print(guard("guarded_targets:surroundings", None)["pid"], flush=True)
try:
    guard("guarded_targets:{name}", 9)
except KeyboardInterrupt:
    sys.exit(7)
"""


def parent(name: str, before: str = "") -> subprocess.Popen[str]:
    command = f'{before} exec "$0" -c "$1"'
    with signals(signal.SIG_DFL):
        return subprocess.Popen(
            ["sh", "-c", command, sys.executable, PARENT.format(name=name)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
        )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit of time ends it")
@pytest.mark.parametrize("name", ["tower", "sleep", "same"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_process_ends_with_its_parent(name: str, sign: int) -> None:
    running = parent(name)
    assert running.stdout is not None
    pid = int(running.stdout.readline())
    if name != "same":  # it has called
        time.sleep(0.3)
        running.send_signal(sign)
    running.communicate(timeout=10)
    assert gone(pid)
    if name != "same" and sign == signal.SIGINT:
        assert running.returncode == 7


@pytest.mark.parametrize(
    "before",
    ["trap '' INT TERM;", "trap '' CHLD;", "ulimit -v 600000;", "exec <&- 2>&-;", "ulimit -n 256;"],
)
def test_it_works_in_odd_surroundings(before: str) -> None:
    running = parent("same", before)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 0
    assert gone(int(out))


def test_a_fork_starts_a_process_of_its_own() -> None:
    with Guard() as guard:
        first = guard(f"{TARGETS}:surroundings", None)["pid"]
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                os.write(write, str(guard(f"{TARGETS}:surroundings", None)["pid"]).encode())
                guard.close()
            finally:
                os._exit(0)
        os.close(write)
        with open(read) as answer:
            assert int(answer.read()) != first
        os.wait()
        assert guard(f"{TARGETS}:surroundings", None)["pid"] == first


def test_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    for executable, words in (("", "no Python"), ("/nowhere/python", "No such file")):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(Crashed, match=words):
            call("same", 1)


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_a_call_costs_little() -> None:
    with Guard() as guard:
        guard(f"{TARGETS}:same", 1)
        took = timed(lambda: [guard(f"{TARGETS}:same", "x" * 1000) for _ in range(100)])
    assert took < 5  # about 0.02 s
