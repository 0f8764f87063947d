"""The memory in which a tensor's merged rows become codes and scales."""

from __future__ import annotations

from mergesafe.checkpoint.format.digest import digest_of
from mergesafe.checkpoint.output.encoding import RowEncoder
from mergesafe.checkpoint.views.view import Memory
from mergesafe.dtypes import SIZES
from mergesafe.engine.memory import Section
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling
from mergesafe.engine.run.results import Results


class EncodedRows:
    """One tile's codes, a piece at a time, and all its scales; for one worker."""

    def __init__(self, task: TensorTask, layout: Tiling, memory: Section) -> None:
        assert task.encoding is not None
        self._task, self._columns = task, task.context.shape[-1]
        self._size = task.encoding.scale_bytes
        self._encoder = RowEncoder(self._columns)
        self._codes = memory.take(layout.made)
        rows = min(layout.read, task.numel) // self._columns
        self._scales = memoryview(bytearray(rows * self._size))

    def encode(self, values: memoryview, first: int, tile: int) -> Memory:
        """The codes of whole rows of float32 values from element ``first`` of the tensor on.

        ``tile``: the first element of the tile that they belong to.
        """
        address, codes = self._codes
        codes = codes[: len(values) // SIZES[self._task.made_dtype]]
        at = first // self._columns - tile // self._columns
        rows = slice(at * self._size, (at + len(codes) // self._columns) * self._size)
        self._encoder.encode(values, codes, self._scales[rows])
        return address, codes

    def write(self, results: Results, begin: int, count: int) -> int:
        """Write the scales of a tile whose rows are encoded; their digest.

        Tiles that share a row have the same scale for it.
        """
        first, end = begin // self._columns, -(-(begin + count) // self._columns)
        scales = self._scales[: (end - first) * self._size]
        results.write(self._task, first * self._size, scales, 1)
        return digest_of(scales)
