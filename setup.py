"""Builds mergesafe._native with CMake and Ninja.

``MERGESAFE_CUDA=AUTO|ON|OFF`` (environment) chooses which CUDA kernels are compiled: for the GPUs
of this machine, for all, or none. The extension links neither torch nor Python libraries beyond
pybind11's headers, so one build serves every torch version.

What this machine lacks is said before anything is compiled, with what to do about it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PYTHON = (3, 10)
CMAKE = (3, 24)
#: Least major versions of the compilers that the kernels were compiled with.
COMPILERS = {"gcc": 11, "clang": 14}
CUDA_CHOICES = ("AUTO", "ON", "OFF")


class Unsupported(SystemExit):
    """What this machine lacks; ends the build with one paragraph and no traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(f"mergesafe cannot be built here: {message}")


class CMakeExtension(Extension):
    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    def run(self) -> None:
        cmake, ninja = check_build(os.environ)
        self.configured = [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        super().run()

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        cmake, *generator = self.configured
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # Not build_temp: editable installs take a new one each time, and would compile all again.
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            # An old build folder remembers the ninja of a build environment that is gone.
            cmake, "-S", str(ROOT), "-B", str(build), *generator,
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DMERGESAFE_CUDA={cuda_choice(os.environ)}",
        ]  # fmt: skip
        for command in (configure, [cmake, "--build", str(build)]):
            if subprocess.run(command).returncode:
                raise Unsupported(
                    f"'{' '.join(command[:2])}' failed; its first error stands above. Where memory "
                    "ran out, compile less at a time: CMAKE_BUILD_PARALLEL_LEVEL=1"
                )


def check_platform(system: str, word_bits: int, python: tuple[int, ...]) -> None:
    """Refuse systems on which nothing could be built.

    ``system``: as sys.platform.
    """
    if python[:2] < PYTHON:
        raise Unsupported(
            f"Python {_dotted(python[:2])} is too old; take {_dotted(PYTHON)} or newer"
        )
    if system in ("win32", "cygwin"):
        raise Unsupported("it does not run on Windows; use Linux, also within WSL 2")
    if word_bits < 64:
        raise Unsupported(
            "models are larger than what a 32-bit Python can address; take a 64-bit one"
        )


def check_build(environment: Mapping[str, str]) -> tuple[str, str]:
    """CMake and Ninja, where all that compiling needs is there."""
    cuda_choice(environment)
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise Unsupported(
            f"{headers} has no Python.h. Install the headers of this Python: apt install "
            "python3-dev, dnf install python3-devel, or a Python of uv or pyenv, which has them"
        )
    check_compiler(environment)
    try:
        import pybind11  # noqa: F401
    except ImportError:
        raise Unsupported(
            "the package pybind11 is missing. Build with isolation, which brings it, or install "
            "what compiles: pip install pybind11 ninja cmake"
        ) from None
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    version = _version(cmake, r"cmake version (\d+)\.(\d+)")
    if version < CMAKE:
        raise Unsupported(
            f"{cmake} is version {_dotted(version)}, and {_dotted(CMAKE)} is the oldest that knows "
            "how: pip install --upgrade cmake"
        )
    return cmake, ninja


def check_compiler(environment: Mapping[str, str]) -> None:
    """The C++ compiler that CMake will take: CXX, or the first of c++, g++ and clang++."""
    named = environment.get("CXX", "").split()[:1]
    path = environment.get("PATH")
    found = [
        tool
        for name in named or ("c++", "g++", "clang++")
        if (tool := shutil.which(name, path=path))
    ]
    wanted = " or ".join(f"{name} {least}" for name, least in COMPILERS.items())
    advice = (
        f"Install {wanted} or later: apt install g++, dnf install gcc-c++, or xcode-select "
        "--install; CXX names one that is not on PATH"
    )
    if not found:
        missing = f"CXX={named[0]} is not there" if named else "there is no C++ compiler"
        raise Unsupported(f"{missing}. {advice}")
    done = subprocess.run([found[0], "--version"], capture_output=True, text=True)
    kind = "clang" if "clang" in done.stdout else "gcc"
    if "Apple" in done.stdout:
        return  # whose versions count otherwise
    dumped = subprocess.run([found[0], "-dumpversion"], capture_output=True, text=True)
    major = re.match(r"\d+", dumped.stdout)
    if done.returncode or major is None:
        raise Unsupported(f"{found[0]} does not say its version. {advice}")
    if int(major[0]) < COMPILERS[kind]:
        raise Unsupported(f"{found[0]} is {kind} {major[0]}. {advice}")


def cuda_choice(environment: Mapping[str, str]) -> str:
    """AUTO, ON or OFF."""
    chosen = environment.get("MERGESAFE_CUDA", "AUTO").upper()
    if chosen not in CUDA_CHOICES:
        raise Unsupported(f"MERGESAFE_CUDA={chosen}: expected {', '.join(CUDA_CHOICES)}")
    return chosen


def find_tool(name: str) -> str:
    """The tool of this environment's package if installed, else the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Unsupported(f"{name} is missing: pip install {name}")
    return found


def _version(tool: str, pattern: str) -> tuple[int, ...]:
    printed = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    found = re.search(pattern, printed)
    return tuple(map(int, found.groups())) if found else (0,)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    check_platform(sys.platform, 64 if sys.maxsize > 2**32 else 32, sys.version_info)
    setup(
        ext_modules=[CMakeExtension("mergesafe._native")],
        cmdclass={"build_ext": CMakeBuild},
    )
