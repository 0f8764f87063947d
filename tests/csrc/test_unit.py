"""The C++ tests of tests/csrc/unit, each a test of its own here."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from .build import build

UNIT = Path(__file__).with_name("unit")
CASES = sorted(
    name
    for file in UNIT.glob("*.cpp")
    for name in re.findall(r"^MS_CASE\((\w+)\)", file.read_text(), re.MULTILINE)
)


@cache
def results() -> dict[str, str]:
    """What the program says of each case; a case is not in it where the program ended before."""
    program = build("emulated", "mergesafe_tests", cuda="EMULATE")
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    lines = re.findall(r"^(ok|FAILED) (\w+)(.*)$", done.stdout, re.MULTILINE)
    found = {name: "" if word == "ok" else what.removeprefix(": ") for word, name, what in lines}
    missing = f"the program ended with status {done.returncode} before it: {done.stderr[-2000:]}"
    return {name: found.get(name, missing) for name in {*CASES, *found}}


@pytest.mark.parametrize("case", CASES)
def test_case(case: str) -> None:
    wrong = results()[case]
    assert wrong == "", wrong


def test_every_case_is_known() -> None:
    assert len(CASES) > 40
    assert sorted(results()) == CASES
