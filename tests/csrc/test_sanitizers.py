"""`make sanitize` fails where nothing watches the kernels, and where a sanitizer is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .sanitizers import SANITIZERS, gcc_library, prove


@pytest.mark.parametrize("name", SANITIZERS)
def test_a_run_that_nothing_watches_fails(name: str) -> None:
    with pytest.raises(SystemExit, match="sanitizers are not active: the fault '"):
        prove(SANITIZERS[name], Path("/bin/true"), dict(os.environ))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_missing_library_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"gcc has no libnosuch\.so"):
        gcc_library("libnosuch.so")


def test_suppressions_have_reasons() -> None:
    """A line that suppresses something stands below a comment."""
    for file in Path(__file__).parent.glob("*.supp"):
        above = ""
        for line in file.read_text().splitlines():
            assert line.startswith("#") or above.startswith("#"), f"{file.name}: {line}"
            above = line
