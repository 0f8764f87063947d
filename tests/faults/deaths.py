"""Runs that die, are told to end, or lose power; and resumed runs that fare no better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .bench import Bench
from .disk import Disk, Mode
from .fault import Fault, describe, failing, killed
from .shim import CHANGES, Injection

_MERGES: Final = ("single", "shards", "passes", "replace")
_SIGNALS: Final = ("SIGTERM", "SIGINT", "SIGHUP")


def deaths() -> Iterator[Fault]:
    """Death and signals everywhere between the first change of the disk and the last."""
    for subject, count in (("single", 5), ("shards", 5), ("passes", 6), ("replace", 6)):
        for number in range(count):
            yield killed(subject, number / (count - 1))
    for number, subject in enumerate(("single", "passes", "replace", "shards", "passes", "single")):
        yield killed(subject, (number + 0.5) / 6, _SIGNALS[number % 3])
    for subject, match, at in (
        ("single", "*/disk/*.safetensors", 0.6), ("passes", "*/disk/*journal*", 0.5),
        ("shards", "*/disk/*manifest.json", 0.0), ("replace", "*/disk/*config.json", 0.0),
    ):  # fmt: skip
        yield failing(subject, "write", match, "tear", at)


def resumed() -> Iterator[Fault]:
    """A run that dies, and a resumed one that meets a fault too, before one that ends."""
    change, out = CHANGES, "*/disk/*"
    for subject, first, second in (
        ("single", 0.5, Injection(change, out, "SIGKILL", 0.2)),
        ("passes", 0.5, Injection(change, out, "SIGKILL", 0.1)),
        ("passes", 0.6, Injection(change, out, "SIGTERM", 0.3)),
        ("shards", 0.5, Injection(change, out, "SIGKILL", 0.4)),
        ("replace", 0.6, Injection(change, out, "SIGKILL", 0.3)),
        ("passes", 0.5, Injection("read", out, "short", 0.0)),
        ("passes", 0.7, Injection("write", out, "ENOSPC", 0.1, True)),
        ("shards", 0.6, Injection("create", "*/disk/*journal*", "EMFILE", 0.0)),
        ("single", 0.9, Injection("sync", out, "EIO", 0.5)),
        ("shards", 0.4, Injection("lock", out, "EINTR", 0.0)),
    ):
        yield _twice(subject, first, second)


def _twice(subject: str, first: float, second: Injection) -> Fault:
    def act(bench: Bench) -> None:
        options = bench.again
        ran = bench.inject(Injection(CHANGES, "*/disk/*", "SIGKILL", first), *options)
        bench.check(ran, may_keep=True, may_kill=True)
        ran = bench.inject(second, *options)
        bench.check(ran, may_keep=True, may_kill=True)
        bench.recover()

    what = f"death at {first:.0%}, then {describe(second)} of the resumed run"
    return Fault("resumed run", subject, what, act)


def cuts() -> Iterator[Fault]:
    """Power cuts; at 2, when the command has reported success."""
    modes: tuple[Mode, ...] = ("strict", "names", "mixed", "mixed")
    places = {"single": (0.3, 0.6, 0.95, 2), "shards": (0.4, 0.8, 0.97, 2)}
    places |= {"passes": (0.2, 0.5, 0.7, 0.9), "replace": (0.5, 0.9, 0.98, 2)}
    for subject in _MERGES:
        for number, at in enumerate(places[subject]):
            yield _cut(subject, at, modes[number % 4], number)
        yield _cut(subject, places[subject][3], "strict", 9)
    for subject in ("tune", "generate"):
        yield _cut(subject, 0.5, "strict", 0)
        yield _cut(subject, 0.8, "mixed", 1)


def _cut(subject: str, at: float, mode: Mode, seed: int) -> Fault:
    def act(bench: Bench) -> None:
        disk = Disk(bench.disk, bench.image)
        made = Injection(CHANGES, "*/disk/*", "SIGKILL" if at <= 1 else "slow", min(at, 1))
        ran = bench.inject(made, *bench.again, environment=disk.environment)
        bench.check(ran, may_keep=True, may_kill=True)
        disk.cut(mode, seed)
        bench.check_whole()
        if ran.status == 0:
            assert bench.result() == bench.after, "reported success, and the result is lost"
        bench.recover()

    place = f"at {at:.0%} of the changes" if at <= 1 else "after success"
    return Fault("power cut", subject, f"power cut {place}, {mode} {seed}", act)
