"""The device that is measured: which one, whether it is there, how large its cache is.

Imports torch only when asked, and never the compiled extension: ``bench.gpu_check`` needs to say
that there is no GPU before anything is built.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import torch

#: Exit status of every command here when the device that was asked for is missing.
NO_DEVICE = 3


class NoDevice(Exception):
    """The device that was asked for is not there; the message says why."""


def why_no_gpu() -> str | None:
    """Why nothing can be measured on a GPU by this Python, or None."""
    try:
        import torch
    except ImportError as error:
        return f"no GPU can be used: {sys.executable} cannot import torch ({error})"
    if torch.version.cuda is None:
        return f"no GPU can be used: torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"no GPU: torch {torch.__version__} finds no CUDA device"
    return None


def choose(name: str) -> torch.device:
    """``cpu``, ``cuda``, or with ``auto`` the GPU where there is one.

    Raises NoDevice if ``cuda`` is asked for and missing, ValueError for another name.
    """
    import torch

    if name not in ("cpu", "cuda", "auto"):
        raise ValueError(f"the device is {name!r}; expected cpu, cuda or auto")
    if name == "cpu":
        return torch.device("cpu")
    missing = why_no_gpu()
    if missing is None:
        return torch.device("cuda", torch.cuda.current_device())
    if name == "cuda":
        raise NoDevice(missing)
    return torch.device("cpu")


def leave(missing: NoDevice | str) -> NoReturn:
    """Say in one line that the device is missing, and end with status 3."""
    print(missing, file=sys.stderr)
    raise SystemExit(NO_DEVICE)


def cache_bytes(device: torch.device) -> int:
    """The largest cache of the device, in bytes; 0 where the system does not say."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(path.read_text().strip().rstrip("K")) << 10 for path in sizes), default=0)


def driver_version() -> str:
    """Of the NVIDIA driver, or ``unknown`` where nvidia-smi does not answer."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip().partition("\n")[0] or "unknown"
