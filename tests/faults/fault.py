"""A fault, and how those of one kind are made."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .bench import Bench, Ran
from .shim import CHANGES, Injection


@dataclass(frozen=True)
class Fault:
    """``act`` raises AssertionError where anything but what is documented happens."""

    kind: str
    subject: str
    what: str
    act: Callable[[Bench], None]

    @property
    def name(self) -> str:
        return f"{self.subject}: {self.what}"


def failing(subject: str, *injection: object, options: Sequence[str] = ()) -> Fault:
    """A call that fails, falls short or takes long; ``injection``: see :class:`Injection`."""
    made = Injection(*injection)  # type: ignore[arg-type]

    def act(bench: Bench) -> None:
        ran = bench.inject(made, *options)
        bench.check(ran, may_keep="--resume" in options, may_kill=made.do == "tear")
        bench.recover()

    given = f" ({' '.join(options)})" if options else ""
    kind = "torn write, then death" if made.do == "tear" else "call that fails"
    return Fault(kind, subject, describe(made) + given, act)


def killed(subject: str, at: float, do: str = "SIGKILL", options: Sequence[str] = ()) -> Fault:
    """Death, or a signal, at a call that changes the disk."""
    made = Injection(CHANGES, "*/disk/*", do, at)

    def act(bench: Bench) -> None:
        ran = bench.inject(made, *options)
        bench.check(ran, may_keep="--resume" in options, may_kill=do == "SIGKILL")
        if do != "SIGKILL":
            assert ran.status in (0, 130), ran
        bench.recover()

    return Fault("death or signal", subject, describe(made), act)


def describe(made: Injection) -> str:
    """The fault in words."""
    where = made.match.replace("*", "").replace("/disk/", "out ").replace("/inputs/", "in ").strip()
    place = {0.0: "first", 1.0: "last"}.get(made.at, f"{made.at:.0%}")
    kinds = "change" if made.kinds == CHANGES else made.kinds
    return f"{made.do} at {kinds}{f' of {where}' if where else ''}, {place}{' on' * made.lasts}"


def stopped(bench: Bench, made: Injection, change: Callable[[Bench], None], *options: str) -> Ran:
    """Run, and ``change`` something while the command stands still at a call."""
    process = bench.start(*options, environment=made.environment(bench.calls))
    found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert found is not None
    assert found.si_code == os.CLD_STOPPED, bench.finish(process)
    try:
        change(bench)
    finally:
        process.send_signal(signal.SIGCONT)
    return bench.finish(process)
