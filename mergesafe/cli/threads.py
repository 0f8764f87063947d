"""How torch's threads behave in our commands: beside other work they wait asleep.

OpenMP's threads by default spin between two pieces of work. On processors that others use too, each
of them waits for one that is not running, and a model of a few layers takes many times as long.
Asleep, they cost microseconds to wake.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

#: Each of them says how threads wait; a user who set one has decided.
_WAITING: Final = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: And these how many there are.
_COUNT: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def set_thread_defaults(
    environment: MutableMapping[str, str] | None = None, quota: Path = _QUOTA
) -> None:
    """Set what OpenMP reads when torch is imported, unless the user has set it.

    Threads wait asleep, and a container that may use fewer processors than it sees has no more
    threads than those.
    """
    into = os.environ if environment is None else environment
    if not any(name in into for name in _WAITING):
        into["OMP_WAIT_POLICY"] = "PASSIVE"
        into["KMP_BLOCKTIME"] = "0"
    allowed = _processors(quota)
    seen = os.cpu_count() or 1
    if allowed is not None and allowed < seen and not any(name in into for name in _COUNT):
        into["OMP_NUM_THREADS"] = str(allowed)


def _processors(quota: Path) -> int | None:
    """Whole processors that a container's quota allows; None where there is none."""
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return max(1, int(most) // int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return None
