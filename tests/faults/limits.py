"""Low limits, full disks, other users, and output that nobody takes."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from typing import Final

from .bench import Bench, Skip
from .fault import Fault

_NOBODY: Final = 65534


def faults() -> Iterator[Fault]:
    """All of them."""
    files, space, size = resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE
    for subject, number in (("single", 8), ("single", 12), ("shards", 14)):
        yield _limited(subject, f"{number} open files", files, number)
    for subject, number in (("single", 96), ("passes", 160), ("shards", 240)):
        yield _limited(subject, f"{number} MiB of memory", space, number << 20)
    for subject, number in (("single", 4), ("passes", 64), ("replace", 21)):
        yield _limited(subject, f"files of {number} KiB", size, number << 10)
    for subject, number in (("single", 16), ("single", 48), ("passes", 256)):
        yield _full(subject, number)
    yield _as_nobody("an input that may not be read", _hide_input)
    yield _as_nobody("a folder that may not be written to", _close_folder)
    yield _as_nobody("an output folder of somebody else in a sticky one", _foreign_output)
    yield _as_nobody("somebody else's hidden folder in a sticky one", _foreign_area)
    for subject in ("loud", "plan"):
        yield _printing(subject, "standard output is full", "/dev/full", (2,))
        yield _printing(subject, "nobody reads standard output", None, (0,))
    yield _printing("loud", "standard error is full", "/dev/full", (0,), stream="stderr")
    yield _closed("loud")


def _limited(subject: str, what: str, which: int, most: int) -> Fault:
    def act(bench: Bench) -> None:
        def limit() -> None:
            resource.setrlimit(which, (most, most))

        bench.check(bench.run(preexec_fn=limit))
        bench.recover()

    return Fault("low limit", subject, what, act)


def _full(subject: str, kilobytes: int) -> Fault:
    """The output goes to a file system of its own, which is gone afterwards."""
    script = 'mount -t tmpfs -o size=$1k none "$2" || exit 99; disk=$2; shift 2; "$@"; s=$?; '
    script += 'ls -A "$disk" >&2; exit $s'

    def act(bench: Bench) -> None:
        wrap = ("unshare", "-m", "sh", "-c", script, "sh", str(kilobytes), str(bench.disk))
        if shutil.which("unshare") is None or os.geteuid() != 0:
            raise Skip("only root may mount a file system")
        ran = bench.run(wrap=wrap)
        if ran.status in (1, 99):
            raise Skip(f"no file system can be mounted here: {ran.stderr.strip()}")
        bench.check(ran)  # what lies in the full one would be a line on standard error
        assert ran.status == 2
        bench.recover()

    return Fault("full disk", subject, f"a disk of {kilobytes} KiB", act)


#: The command, as somebody else. It runs once before, so that all that it imports is there: modules
#: may be out of reach of others.
_AS_NOBODY: Final = """
import os, sys
from contextlib import suppress
from mergesafe.cli import main as command
command.missing_kernels = lambda root: None  # looks for a file of the package
main = command.main
given = sys.argv[1:]
sys.argv[:] = ["mergesafe", "merge", "r.yml", "../scratch", "--quiet", "--overwrite"]
with suppress(SystemExit):
    main()
sys.argv[1:] = given
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
main()
"""


def _as_nobody(what: str, prepare: Callable[[Bench], None]) -> Fault:
    def act(bench: Bench) -> None:
        if os.geteuid() != 0:
            raise Skip("only root may become somebody else")
        os.chmod(bench.disk, 0o777)
        for path in bench.inputs.rglob("*"):
            path.chmod(0o755)
        prepare(bench)
        before = sorted(bench.disk.rglob("*"))
        try:
            ran = bench.run(launch=_AS_NOBODY)
            bench.check(ran, may_keep=True)
            assert ran.status in (0, 2), ran
            if ran.status == 2:
                assert sorted(bench.disk.rglob("*")) == before
        finally:
            shutil.rmtree(bench.folder / "scratch", ignore_errors=True)
        bench.reset()
        bench.recover()

    return Fault("other users", "single", what, act)


def _hide_input(bench: Bench) -> None:
    os.chmod(bench.inputs / "two" / "model.safetensors", 0o600)


def _close_folder(bench: Bench) -> None:
    os.chmod(bench.disk, 0o755)


def _foreign_output(bench: Bench) -> None:
    os.chmod(bench.disk, 0o1777)
    (bench.disk / "out").mkdir()


def _foreign_area(bench: Bench) -> None:
    """What a merge of the owner of the folder left that was killed."""
    run = bench.run(environment={
        "FAULT_KINDS": "write", "FAULT_MATCH": "*/disk/*.safetensors", "FAULT_FROM": "5",
        "FAULT_TO": "5",
        "FAULT_DO": "signal 9",
    })  # fmt: skip
    assert run.killed
    assert bench.leftovers()
    os.chmod(bench.disk, 0o1777)


def _printing(
    subject: str, what: str, path: str | None, statuses: tuple[int, ...], stream: str = "stdout"
) -> Fault:
    def act(bench: Bench) -> None:
        if path is None:
            read, write = os.pipe()
            os.close(read)
        else:
            write = os.open(path, os.O_WRONLY)
        try:
            ran = bench.run(**{stream: write})
        finally:
            os.close(write)
        assert ran.status in statuses, ran
        if stream == "stdout":
            bench.check_words(ran)
        assert bench.result() == bench.after
        assert bench.leftovers() == []

    return Fault("output that nobody takes", subject, what, act)


def _closed(subject: str) -> Fault:
    def act(bench: Bench) -> None:
        ran = bench.run(wrap=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
        assert ran.status == 0, ran
        assert bench.result() == bench.after
        assert bench.leftovers() == []

    return Fault("output that nobody takes", subject, "all standard streams are closed", act)
