"""Standard output that is full, or that nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import COMMAND

from .helpers import one_paragraph


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["--version"], ["merge", "--help"], ["info"]])
def test_output_that_nobody_takes(command: list[str], unbuffered: str) -> None:
    """A pipe that is closed ends a command as always; a full disk is one paragraph."""
    told = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [COMMAND, *command],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            env=told,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    if not os.path.exists("/dev/full"):
        return
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [COMMAND, *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=told,
            check=False,
        )
    assert done.returncode == 2
    assert "standard output cannot be written" in one_paragraph(done.stderr)


@pytest.mark.parametrize(("bound", "status"), [("0", 0), ("0.9", 3)])
def test_the_verdict_stands_though_nobody_reads_it(bound: str, status: int) -> None:
    fixtures = Path(__file__).parents[1] / "report" / "fixtures"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [
                COMMAND, "gate", "base", "--evaluation", fixtures / "evaluation.json",
                "--require", f"safe_rate>={bound}",
            ],
            stdout=pipe, stderr=pipe, check=False,
        )  # fmt: skip
    assert done.returncode == status


def test_what_others_hold_of_standard_output_stays_usable() -> None:
    """Libraries write to ``sys.__stdout__``, or put it back."""
    code = (
        "import sys; from mergesafe.cli.streams import open_standard_streams; "
        "open_standard_streams(); print('one'); sys.stdout.flush(); "
        "print('two', file=sys.__stdout__)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo\n", "")
