"""What a figure was measured on, and the yardstick measured beside it."""

from __future__ import annotations

import compileall
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

import mergesafe
from bench.device import driver_version
from bench.timing import Timing

#: Elements of each triad array: three of these exceed every cache.
TRIAD_ELEMENTS = 1 << 26
#: Bytes of each buffer that is copied on a GPU: ten times the cache of the largest.
COPY_BYTES = 1 << 29


def compile_package() -> None:
    """Bytecode of mergesafe, as pip makes it of what it installs.

    Where PYTHONDONTWRITEBYTECODE is set, a checkout would else be compiled anew in every process.
    """
    compileall.compile_dir(Path(mergesafe.__file__).parent, quiet=1)


class Yardstick:
    """Moves ``nbytes`` a call; the rate is the measured limit of a device."""

    name: str
    nbytes: int

    def __call__(self) -> None:
        raise NotImplementedError

    def gbs(self, timing: Timing) -> float:
        """Bytes read and written, in GB/s."""
        return self.nbytes / timing.p50 / 1e9


class Triad(Yardstick):
    """STREAM's triad a = b + s c over float32 arrays, 12 bytes an element."""

    name = "triad"
    nbytes = 12 * TRIAD_ELEMENTS

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._arrays = [np.ones(TRIAD_ELEMENTS, dtype=np.float32) for _ in range(3)]

    def __call__(self) -> None:
        from mergesafe import _native

        a, b, c = (array.ctypes.data for array in self._arrays)
        _native.triad(a, b, c, 3.0, TRIAD_ELEMENTS, self._threads)


class DeviceCopy(Yardstick):
    """A copy from one buffer of device memory to another, in turn over a ring of three, so that
    no call finds in the cache what the last one left there.
    """

    name = "device copy"

    def __init__(self, device: torch.device, nbytes: int = COPY_BYTES) -> None:
        self.nbytes = 2 * nbytes
        generator = torch.Generator(device).manual_seed(0)
        self._ring = [
            torch.randint(256, (nbytes,), dtype=torch.uint8, device=device, generator=generator)
            for _ in range(3)
        ]
        self._turn = 0

    def __call__(self) -> None:
        self._turn = (self._turn + 1) % 3
        self._ring[self._turn].copy_(self._ring[self._turn - 1])


def yardstick(device: torch.device, threads: int) -> Yardstick:
    """What bounds a kernel that only moves memory on this device."""
    return Triad(threads) if device.type == "cpu" else DeviceCopy(device)


def threads_here() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """Columns that every CSV row carries."""
    from mergesafe import _native

    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "cpu": _cpu(),
        "cores": str(threads_here()),
        "isa": _native.isa(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }


def hardware(device: torch.device) -> dict[str, str]:
    """The device, and the versions of what drives it and of the peers."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else _cpu(),
        "driver": driver_version() if gpu else "",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "mergekit": _version("mergekit"),
    }


def describe_device(device: torch.device) -> dict[str, str]:
    """Columns of a row that was measured on ``device``."""
    return {**hardware(device), **describe()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def commit() -> str:
    """The commit that is measured, or ``unknown`` outside a repository."""
    root = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
