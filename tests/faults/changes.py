"""Inputs that change while they are merged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from .bench import Bench
from .fault import Fault, stopped
from .shim import Injection

#: Where the command stands still: before the output folder is made, when a third of the output is
#: written, and before the manifest.
_PLACES: Final = {
    "before the first read": Injection("mkdir", "*/disk/*", "SIGSTOP", 0.0),
    "between two reads": Injection("write", "*/disk/*.safetensors", "SIGSTOP", 0.3),
    "before the manifest": Injection("create", "*/disk/*manifest.json", "SIGSTOP", 0.0),
}


def _shard(bench: Bench) -> Path:
    return sorted((bench.inputs / "one").glob("*.safetensors"))[-1]


def _rewrite(bench: Bench) -> None:
    _spoil(_shard(bench))


def _spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-200, os.SEEK_END)
        file.write(b"\x3c" * 200)


def _rewrite_in_secret(bench: Bench) -> None:
    """Other bytes of the same size, at the same time as far as the file says."""
    path = _shard(bench)
    before = path.stat()
    _spoil(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(bench: Bench) -> None:
    path = _shard(bench)
    other = path.with_name("other")
    shutil.copyfile(path, other)
    _spoil(other)
    other.replace(path)


def _replace_in_secret(bench: Bench) -> None:
    before = _shard(bench).stat()
    _replace(bench)
    os.utime(_shard(bench), ns=(before.st_atime_ns, before.st_mtime_ns))


def _truncate(bench: Bench) -> None:
    os.truncate(_shard(bench), _shard(bench).stat().st_size - 100)


def _empty(bench: Bench) -> None:
    os.truncate(_shard(bench), 0)


def _remove(bench: Bench) -> None:
    _shard(bench).unlink()


def _remove_model(bench: Bench) -> None:
    shutil.rmtree(bench.inputs / "one")


def _change(subject: str, place: str, change: Callable[[Bench], None]) -> Fault:
    def act(bench: Bench) -> None:
        ran = stopped(bench, _PLACES[place], change)
        bench.check(ran)  # with status 0, the output is that of the inputs as they were
        shutil.rmtree(bench.inputs)
        shutil.copytree(bench.pristine, bench.inputs)
        bench.recover()

    what = change.__name__.strip("_").replace("_", " ")
    return Fault("changing input", subject, f"{what} an input {place}", act)


def faults() -> Iterator[Fault]:
    """Every change, somewhere."""
    first, second, third = _PLACES
    for subject, place, change in (
        ("single", first, _rewrite), ("passes", second, _rewrite), ("shards", third, _rewrite),
        ("single", first, _rewrite_in_secret), ("passes", second, _rewrite_in_secret),
        ("single", first, _replace), ("passes", second, _replace),
        ("single", first, _replace_in_secret),
        ("passes", first, _truncate), ("single", second, _truncate), ("shards", second, _empty),
        ("single", second, _remove), ("passes", first, _remove_model),
    ):  # fmt: skip
        yield _change(subject, place, change)
