"""The CUDA kernels, run on the host: the same sources compiled against csrc/emulate."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

import pybind11

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "emulated"


@cache
def module() -> ModuleType:
    """``_native`` with emulated CUDA kernels, built when a source is newer."""
    _build()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    spec = importlib.util.spec_from_file_location("_native", BUILD / "out" / f"_native{suffix}")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _build() -> None:
    beside = Path(sys.executable).parent
    cmake, ninja = (shutil.which(name, path=f"{beside}:{os.environ['PATH']}") for name in
                    ("cmake", "ninja"))  # fmt: skip
    assert cmake is not None
    configure = [
        cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={BUILD / 'out'}",
        "-DMERGESAFE_CUDA=EMULATE",
    ]  # fmt: skip
    for command in (configure, [cmake, "--build", str(BUILD)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"building the emulated kernels failed:\n{done.stdout}{done.stderr}")
