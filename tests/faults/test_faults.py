"""A dozen of the faults in every run of the tests; all of them where slow tests are asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from .bench import Skip
from .catalogue import catalogue
from .fault import Fault
from .shim import build
from .subjects import Workshop

_ALL: Final = {fault.name: fault for fault in catalogue()}
#: A few of each kind, of commands that start fast.
SHORT: Final = (
    "single: ENOMEM at mmap, last",
    "single: EIO at close of out, first",
    "single: EIO at stat of in, 50%",
    "single: SIGKILL at change of out, last",
    "single: replace in secret an input before the first read",
    "passes: EAGAIN at thread, first on",
    "passes: ENOSPC at write of out, 50% on (--resume)",
    "passes: death at 50%, then SIGKILL at change of out, 10% of the resumed run",
    "passes: power cut at 70% of the changes, mixed 2",
    "replace: SIGKILL at change of out, 80%",
    "replace: power cut after success, strict 9",
    "report: SIGKILL at change of out, 70%",
)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)  # other users come here too
        try:
            build(Path(folder))
        except RuntimeError as error:
            pytest.skip(str(error))
        with Workshop(Path(folder)) as made:
            yield made


def _act(fault: Fault, workshop: Workshop) -> None:
    try:
        fault.act(workshop.bench(fault.subject))
    except Skip as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", SHORT)
def test_fault(name: str, workshop: Workshop) -> None:
    _act(_ALL[name], workshop)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in _ALL if name not in SHORT])
def test_every_other_fault(name: str, workshop: Workshop) -> None:
    _act(_ALL[name], workshop)


def test_there_are_200() -> None:
    assert len(_ALL) == 204
