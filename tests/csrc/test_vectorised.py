"""The compiler vectorises every element loop of the CPU kernels.

A select written as a branch once cost a factor of 35 without changing a bit, so no test of values
can notice. Loops that cannot be vectorised say ``scalar loop`` and why.

gcc says which loops it has vectorised while it compiles the extension. Where that build is older
than a source, or was made by another compiler, the kernels are compiled here once more.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
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


def report_of_the_build(level: str) -> str | None:
    """What gcc said when the extension was built; None where ninja would compile it anew."""
    name = level.replace("-", "_")
    report = BUILD / f"vectorised_{name}.txt"
    ninja = shutil.which("ninja", path=str(Path(sys.executable).parent)) or shutil.which("ninja")
    if ninja is None or not report.exists():
        return None
    command = [ninja, "-C", str(BUILD), "-n", f"cpu_{name}"]
    planned = subprocess.run(command, capture_output=True, text=True).stdout
    return report.read_text() if "no work to do" in planned else None


def report_of_a_compilation(level: str, folder: Path) -> str:
    assert FLAGS is not None
    command = [
        "g++", "-std=c++17", f"-I{ROOT / 'csrc'}", "-DMS_ISA=probe", '-DMS_ISA_NAME="probe"',
        *FLAGS[1].split(), f"-march={level}", *LEVELS[level], "-fopt-info-vec-optimized",
        "-c", str(ROOT / "csrc" / "cpu" / "isa.cpp"), "-o", str(folder / "probe.o"),
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


@pytest.mark.skipif(not is_gcc(), reason="reads the reports of gcc on x86-64")
@pytest.mark.parametrize("level", LEVELS)
def test_every_element_loop_is_vectorised(level: str, tmp_path: Path) -> None:
    report = report_of_the_build(level) or report_of_a_compilation(level, tmp_path)
    vectorised = set(re.findall(r"(\w+\.inl:\d+)", report))
    loops = element_loops()
    assert len(loops) > 20
    assert loops - vectorised == set()
