"""The compiler vectorises every element loop of the CPU kernels.

A select written as a branch once cost a factor of 35 without changing a bit, so no test of values
can notice. Loops that cannot be vectorised say ``scalar loop`` and why.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = re.search(
    r"set\(MERGESAFE_EXACT ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text(), re.DOTALL
)
LOOP = re.compile(r"for \(int j = 0; j < n(?: / 2)?; \+\+j\)")
LEVELS = {"x86-64-v3": [], "x86-64-v4": ["-mprefer-vector-width=512"]}


def is_gcc() -> bool:
    if shutil.which("g++") is None or platform.machine() != "x86_64":
        return False
    version = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
    return "Free Software Foundation" in version


def element_loops() -> set[str]:
    """``file:line`` of every loop that has to be vectorised."""
    return {
        f"{path.name}:{number}"
        for path in (ROOT / "csrc" / "cpu").glob("*.inl")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LOOP.search(line) and "scalar loop" not in line
    }


@pytest.mark.skipif(not is_gcc(), reason="reads the reports of gcc on x86-64")
@pytest.mark.parametrize("level", LEVELS)
def test_every_element_loop_is_vectorised(level: str, tmp_path: Path) -> None:
    assert FLAGS is not None
    command = [
        "g++", "-std=c++17", f"-I{ROOT / 'csrc'}", "-DMS_ISA=probe", '-DMS_ISA_NAME="probe"',
        *FLAGS[1].split(), f"-march={level}", *LEVELS[level], "-fopt-info-vec-optimized",
        "-c", str(ROOT / "csrc" / "cpu" / "isa.cpp"), "-o", str(tmp_path / "probe.o"),
    ]  # fmt: skip
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    vectorised = set(re.findall(r"([a-z]+\.inl:\d+)", report))
    loops = element_loops()
    assert len(loops) > 20
    assert loops - vectorised == set()
