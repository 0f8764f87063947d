"""Builds mergesafe._native with CMake and Ninja.

``MERGESAFE_CUDA=AUTO|ON|OFF`` (environment) chooses whether CUDA kernels are compiled; a build
without them says so. The extension links neither torch nor Python libraries beyond pybind11's
headers, so one build serves every torch version.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeExtension(Extension):
    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        cuda = os.environ.get("MERGESAFE_CUDA", "AUTO").upper()
        if cuda not in ("AUTO", "ON", "OFF"):
            raise SystemExit(f"MERGESAFE_CUDA={cuda!r}: expected AUTO, ON or OFF")
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # Not build_temp: editable installs take a new one each time, and would compile all again.
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            # An old build folder remembers the ninja of a build environment that is gone.
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DMERGESAFE_CUDA={cuda}",
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build)], check=True)


def find_tool(name: str) -> str:
    """The tool of this environment's package if installed, else the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is needed to build mergesafe: pip install {name}")
    return found


setup(
    ext_modules=[CMakeExtension("mergesafe._native")],
    cmdclass={"build_ext": CMakeBuild},
)
