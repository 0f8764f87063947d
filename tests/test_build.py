"""What setup.py says of machines that it cannot build on; for which GPUs kernels are compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "cmake" / "cuda_architectures.cmake"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mergesafe_build", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tool(folder: Path, name: str, *lines: str) -> Path:
    """A program that prints ``lines``."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("system", "bits", "python", "words"),
    [
        ("win32", 64, (3, 12), "does not run on Windows; use Linux"),
        ("linux", 32, (3, 12), "take a 64-bit one"),
        ("linux", 64, (3, 9, 7), "Python 3.9 is too old; take 3.10 or newer"),
    ],
)
def test_platforms(
    build: ModuleType, system: str, bits: int, python: tuple[int, ...], words: str
) -> None:
    with pytest.raises(SystemExit, match=f"mergesafe cannot be built here: .*{words}"):
        build.check_platform(system, bits, python)
    build.check_platform(sys.platform, 64, sys.version_info)


def test_compilers(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(SystemExit, match=r"there is no C\+\+ compiler. Install gcc 11 or clang 14"):
        build.check_compiler({"PATH": str(tmp_path / "none")})
    with pytest.raises(SystemExit, match=r"CXX=nowhere-g\+\+ is not there. Install"):
        build.check_compiler({"CXX": "nowhere-g++ -m64", "PATH": str(tmp_path / "none")})
    old = tool(tmp_path / "old", "g++", "9")
    with pytest.raises(SystemExit, match=r"old/g\+\+ is gcc 9. Install gcc 11"):
        build.check_compiler({"PATH": str(old)})
    build.check_compiler({"PATH": str(tool(tmp_path / "apple", "c++", "Apple clang version 15"))})
    build.check_compiler(os.environ)


def test_tools(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tool(tmp_path / "bin", "cmake", "cmake version 3.18.4")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(build, "check_compiler", lambda environment: None)
    monkeypatch.setattr(build, "find_tool", lambda name: str(folder / name))
    with pytest.raises(SystemExit, match=r"version 3.18, and 3.24 is the oldest.*--upgrade cmake"):
        build.check_build({})
    with pytest.raises(SystemExit, match="MERGESAFE_CUDA=YES: expected AUTO, ON, OFF"):
        build.check_build({"MERGESAFE_CUDA": "yes"})
    monkeypatch.setitem(sys.modules, "pybind11", None)
    with pytest.raises(SystemExit, match="package pybind11 is missing"):
        build.check_build({})
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SystemExit, match=r"has no Python\.h.*apt install python3-dev"):
        build.check_build({})


def test_a_tool_that_is_missing(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="no-such-tool is missing: pip install no-such-tool"):
        build.find_tool("no-such-tool")


KNOWN = "sm_80\nsm_86\nsm_89\nsm_90\nsm_100\nsm_120\n"
ALL = "80-real;90-real;100-real;120-real;120-virtual"


@pytest.mark.parametrize(
    ("mode", "gpus", "known", "chosen"),
    [
        ("AUTO", [], KNOWN, ""),
        ("AUTO", ["8.9", "9.0", "8.9"], KNOWN, "89-real;90-real"),
        ("AUTO", ["7.5"], f"sm_75\n{KNOWN}", ""),  # older than what the kernels are tried on
        ("AUTO", ["13.0"], KNOWN, "120-virtual"),  # newer than what nvcc knows: its driver compiles
        ("AUTO", ["NVIDIA-SMI has failed"], KNOWN, ""),
        ("ON", [], KNOWN, ALL),
        ("ON", ["8.9"], KNOWN, ALL),
        ("ON", [], "sm_80\nsm_90\n", "80-real;90-real;90-virtual"),
    ],
)
def test_architectures(
    mode: str, gpus: list[str], known: str, chosen: str, build: ModuleType, tmp_path: Path
) -> None:
    cmake = build.find_tool("cmake")
    driver = tool(tmp_path / "driver", "nvidia-smi", *gpus)
    done = subprocess.run(
        [cmake, f"-DMODE={mode}", f"-DKNOWN={known}", "-P", SCRIPT],
        capture_output=True, text=True, env={"PATH": f"{driver}:/usr/bin:/bin"}, check=True,
    )  # fmt: skip
    assert done.stderr.strip().endswith(f"chosen={chosen}")
