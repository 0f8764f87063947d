"""Counting opposite signs of task vectors, one bit an element."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from mergesafe.engine.kernels import Buffer
from mergesafe.errors import MergesafeError

if TYPE_CHECKING:
    import numpy


class Memory(Protocol):
    """Where the masks of a tile are made."""

    tile: int

    def take(self, nbytes: int) -> tuple[int, memoryview]: ...


def require_numpy() -> None:
    """Raises MergesafeError where NumPy 2 is missing."""
    if find_spec("numpy") is not None:
        import numpy

        if hasattr(numpy, "bitwise_count"):
            return
    raise MergesafeError(
        "comparing task vectors needs numpy 2 or newer. Install it: pip install 'mergesafe[models]'"
    )


class Signs:
    """For every pair of ``count`` vectors: elements in which both are not zero (``both``), and
    those in which their signs are opposite (``opposite``); the upper triangle counts.
    """

    def __init__(self, count: int, memory: Memory) -> None:
        import numpy

        self.both = [[0] * count for _ in range(count)]
        self.opposite = [[0] * count for _ in range(count)]
        self._mask: Any = numpy.frombuffer(memory.take(memory.tile)[1], dtype=bool)

    def add(self, vectors: Sequence[Buffer], n: int) -> None:
        """Count ``n`` more float32 elements of every vector; NaN has no sign."""
        import numpy

        mask = self._mask[:n]
        positive, negative = [], []
        for vector in vectors:
            values: Any = numpy.frombuffer(vector.view, dtype=numpy.float32)
            positive.append(_packed(numpy.greater(values, 0, out=mask)))
            negative.append(_packed(numpy.less(values, 0, out=mask)))
        changed = [p | q for p, q in zip(positive, negative, strict=True)]
        for i in range(len(vectors)):
            for j in range(i, len(vectors)):
                self.both[i][j] += _ones(changed[i] & changed[j])
                if i != j:
                    against = positive[i] & negative[j] | negative[i] & positive[j]
                    self.opposite[i][j] += _ones(against)


def _packed(mask: numpy.ndarray) -> Any:
    """Bits of a mask in whole 64-bit words, zeros at the end."""
    import numpy

    packed = numpy.packbits(mask)
    if packed.size % 8:
        packed = numpy.pad(packed, (0, -packed.size % 8))
    return packed.view(numpy.uint64)


def _ones(words: Any) -> int:
    import numpy

    return int(numpy.bitwise_count(words).sum(dtype=numpy.int64))
