"""What tests have called in a guarded process: functions that do what a stranger's text can do."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any


def same(value: Any) -> Any:
    return value


def surroundings(value: Any) -> dict[str, Any]:
    """What the process can see and reach."""
    kept = []
    for number in range(3, 64):
        try:
            kept.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return {
        "environment": sorted(os.environ),
        "kept": [each for each in kept if each.startswith("/") and "/proc/" not in each],
        "pid": os.getpid(),
        "session": os.getsid(0),
        "read": sys.stdin.readline(),
        "mergesafe": sys.modules["mergesafe"].__file__,
        "stopped": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    }


def memory(value: Any) -> int:
    return len(bytearray(4 << 30))


def hoard(value: Any) -> int:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def tower(value: Any) -> int:
    """Minutes within one operation that looks at no signal."""
    return int(9 ** (value * 10**7)) % 7


def busy(value: float) -> float:
    end = time.process_time() + value
    while time.process_time() < end:
        pass
    return value


def time_left(value: Any) -> float:
    """Seconds of the processor's time before the system ends the process."""
    return resource.getrlimit(resource.RLIMIT_CPU)[0] - time.process_time()


def sleep(value: float) -> float:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(value)
    return value


def crash(value: Any) -> None:
    ctypes.string_at(0)


def leave(value: int) -> None:
    os._exit(value)


def flood(value: int) -> str:
    return "x" * value


def chatter(value: int) -> str:
    print("x" * value, flush=True)
    os.write(1, b"x" * value)
    os.write(2, b"x" * value)
    return "said"


def nested(value: int) -> Any:
    made: Any = []
    for _ in range(value):
        made = [made]
    return made


def fail(value: str) -> None:
    raise LookupError(value)


def refuse_to_say(value: Any) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    raise Silent


def leave_by_exit(value: Any) -> None:
    raise SystemExit(0)


def write(value: str) -> int:
    return Path(value).write_text("x")


def no_json(value: Any) -> object:
    return {"a": object()}


def big_number(value: Any) -> int:
    return 10**10_000
