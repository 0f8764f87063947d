"""Builds of csrc/ for tests, each in a folder of its own in build/, where its objects stay."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pybind11

ROOT = Path(__file__).resolve().parents[2]


def build(folder: str, target: str, **options: str) -> Path:
    """Where CMake put ``target``: below build/``folder``, built anew where a source is newer.

    ``options`` are CMake's, without ``MERGESAFE_``. Raises RuntimeError with what the compiler
    said.
    """
    place = ROOT / "build" / folder
    place.parent.mkdir(exist_ok=True)
    # Tests that run side by side ask for the same build.
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _built(place, target, options)


def _built(place: Path, target: str, options: Mapping[str, str]) -> Path:
    beside = Path(sys.executable).parent
    cmake, ninja = (shutil.which(name, path=f"{beside}:{os.environ['PATH']}") for name in
                    ("cmake", "ninja"))  # fmt: skip
    if cmake is None:
        raise RuntimeError("cmake is needed to build the kernels for tests")
    configure = [
        cmake, "-S", str(ROOT), "-B", str(place), "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={place / 'out'}",
        f"-DCMAKE_RUNTIME_OUTPUT_DIRECTORY={place / 'out'}",
        "-DMERGESAFE_TESTS=ON",
        *(f"-DMERGESAFE_{name.upper()}={value}" for name, value in options.items()),
    ]  # fmt: skip
    for command in (configure, [cmake, "--build", str(place), "--target", target]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"building {place.name} failed:\n{done.stdout}{done.stderr}")
    return next((place / "out").glob(f"{target}*"))
