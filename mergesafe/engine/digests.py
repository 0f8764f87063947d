"""Digests of what a merge reads and writes, added up tile by tile."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Final

from mergesafe.checkpoint.format.digest import add, text
from mergesafe.engine.plan.tasks import TensorTask

#: Names of a tensor's parts: its output, input i, and the factors of input i's adapter.
OUTPUT: Final = "output"
#: The scales of the output. Those of a tile are digested by themselves, since they begin anywhere
#: in a block; what the manifest says of all of them is read from the output.
SCALES: Final = "output.scale"
#: The factors of a merged adapter, one behind the other in the output of their task, are read from
#: the output for what the manifest says of each.
FACTORS: Final = ("output.A", "output.B")


class Digests:
    """Sums of the digests of tiles, by tensor and part. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, dict[str, int]] = defaultdict(dict)

    def add(self, task: TensorTask, part: str, digest: int) -> None:
        """One tile of ``part`` of the task: each byte once, tiles in any order."""
        with self._lock:
            sums = self._sums[task.stored]
            sums[part] = add(sums.get(part, 0), digest)

    def text(self, task: TensorTask, part: str) -> str:
        """The digest of all tiles so far."""
        return text(self._sums[task.stored].get(part, 0))

    def replace(self, task: TensorTask, part: str, digest: int) -> None:
        """Take ``digest`` for all tiles of ``part``."""
        with self._lock:
            self._sums[task.stored][part] = digest
