"""The memory in which a tensor's merged rows become codes and scales."""

from __future__ import annotations

from mergesafe.checkpoint.format.digest import digest_of
from mergesafe.checkpoint.output.encoding import RowEncoder
from mergesafe.engine.memory import Slice
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.tiling import Tiling
from mergesafe.engine.run.results import Results


class EncodedRows:
    """One tile's codes, a piece at a time, and all its scales; for one worker."""

    def __init__(self, task: TensorTask, layout: Tiling, memory: Slice) -> None:
        assert task.encoding is not None
        self._task, self._columns = task, task.context.shape[-1]
        self._size = task.encoding.scale_bytes
        self._encoder = RowEncoder(self._columns)
        self._codes = memory.take(layout.out_tile)
        rows = min(layout.tile, task.numel) // self._columns
        self._scales = memoryview(bytearray(rows * self._size))

    def encode(self, values: memoryview, at: int, n: int) -> tuple[int, memoryview]:
        """The codes of ``n`` float32 values, which begin at element ``at`` of the tile."""
        address, codes = self._codes
        rows = slice(at // self._columns * self._size, (at + n) // self._columns * self._size)
        self._encoder.encode(values, codes[:n], self._scales[rows])
        return address, codes[:n]

    def write(self, results: Results, begin: int, count: int) -> int:
        """Write the scales of a tile whose rows are encoded; their digest."""
        scales = self._scales[: count // self._columns * self._size]
        results.write(self._task, begin // self._columns * self._size, scales, 1)
        return digest_of(scales)
