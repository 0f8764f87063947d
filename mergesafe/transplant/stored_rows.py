"""Rows of a stored matrix by number: in memory where there is room, else read when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.dtypes import SIZES
from mergesafe.errors import NonFiniteError
from mergesafe.ops.pursuit import Indices, Matrix
from mergesafe.untrusted import show

_TYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
#: Bytes of a block of rows that is read or multiplied at a time.
BLOCK_BYTES: Final = 4 << 20


class StoredRows:
    """The rows ``numbers``, ascending, of ``info``: row i here is row ``numbers[i]`` there.

    A dictionary of atoms for :func:`mergesafe.ops.pursuit.matching_pursuit`. ``resident``: keep
    them in memory. Thread-safe.

    Raises:
        NonFiniteError: one of the rows holds NaN or infinity.
        CheckpointError: they cannot be read.
    """

    def __init__(
        self, info: TensorInfo, numbers: Indices, reader: Reader, *, resident: bool
    ) -> None:
        self._info, self._numbers, self._reader = info, numbers, reader
        self.count, self.size = len(numbers), info.shape[1]
        self._row = self.size * SIZES[info.dtype]
        self._step = max(1, BLOCK_BYTES // max(1, self._row))
        #: Rows of which float64 copies take a block's bytes.
        self._doubles = max(1, BLOCK_BYTES // max(1, 8 * self.size))
        self._kept: torch.Tensor | None = None
        self._converted: torch.Tensor | None = None
        self._converting = Lock()
        self.resident = resident
        self.lengths = np.zeros(self.count)
        if resident:
            self._kept = torch.empty((self.count, self.size), dtype=_TYPES[info.dtype])
        for first, block in self._read():
            self._measure(first, block)
            if self._kept is not None:
                self._kept[first : first + len(block)] = block

    def _measure(self, first: int, block: torch.Tensor) -> None:
        """Note the lengths of rows from ``first`` on, in float64 of at most a block's bytes."""
        for at in range(0, len(block), self._doubles):
            part, begin = block[at : at + self._doubles], first + at
            squares = part.double().square_().sum(1)
            if not bool(squares.isfinite().all()):
                row = begin + int((~squares.isfinite()).nonzero()[0, 0])
                raise NonFiniteError(
                    f"{self._info.path}: row {self._numbers[row]} of tensor "
                    f"{show(self._info.name)} holds NaN or infinity, and rows of other tokens are "
                    "to be computed with it. Repair the checkpoint, or use --method zero."
                )
            self.lengths[begin : begin + len(part)] = squares.sqrt().numpy() * (1 + 1e-9)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.count * self._row

    def blocks(self, kind: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        """Every row, some at a time: the number of the first, and the rows in a type."""
        if self._kept is None:
            yield from ((first, block.to(kind)) for first, block in self._read())
            return
        with self._converting:  # threads begin together, and there is room for one copy
            rows = self._converted
            if rows is None or rows.dtype is not kind:
                rows = self._converted = self._kept.to(kind)
        for first in range(0, self.count, self._step):
            yield first, rows[first : first + self._step]

    def rows(self, indices: Indices) -> Matrix:
        """Rows in any order, as float64."""
        if self._kept is not None:
            found = self._kept[torch.from_numpy(indices)]
        else:
            distinct, place = np.unique(self._numbers[indices], return_inverse=True)
            raw = bytearray(len(distinct) * self._row)
            for number, row in enumerate(distinct):
                view = memoryview(raw)[number * self._row : (number + 1) * self._row]
                self._reader.read_into(self._info, int(row) * self._row, view)
            found = self._matrix(raw)[torch.from_numpy(place)]
        made: Matrix = found.double().numpy()
        return made

    def exact(self, unit: float) -> bool:
        """Whether a type with this rounding unit holds every number of the matrix."""
        return self._info.dtype == "BF16" or unit <= 2.0**-24

    def _read(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Blocks from the file: neighbouring rows at once, with the few between that are others."""
        numbers, at = self._numbers, 0
        while at < self.count:
            begin = int(numbers[at])
            end = int(np.searchsorted(numbers, begin + self._step))
            last = int(numbers[end - 1])
            raw = bytearray((last + 1 - begin) * self._row)
            self._reader.read_into(self._info, begin * self._row, memoryview(raw))
            inside: NDArray[np.int64] = numbers[at:end] - begin
            rows = self._matrix(raw)
            yield at, rows if len(inside) == len(rows) else rows[torch.from_numpy(inside)]
            at = end

    def _matrix(self, raw: bytearray) -> torch.Tensor:
        count = len(raw) // max(1, self._row)
        flat: Any = torch.frombuffer(raw, dtype=_TYPES[self._info.dtype])
        return torch.as_tensor(flat).reshape(count, self.size)


def encoded(rows: Matrix, ids: Indices, info: TensorInfo) -> memoryview:
    """Float64 rows of tokens rounded to float32 and then to the type of ``info``, as bytes.

    Raises:
        NonFiniteError: a number is too large for the type.
    """
    rounded = torch.from_numpy(rows).float().to(_TYPES[info.dtype]).contiguous()
    finite = rounded.isfinite().all(1)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"{info.path}: the row of token {ids[int((~finite).nonzero()[0, 0])]} that was made "
            f"for tensor {show(info.name)} holds numbers that {info.dtype} cannot. Look for rows "
            "of very large numbers in both models, or use --method zero or mean."
        )
    view: Any = rounded.view(torch.uint8).numpy()
    return memoryview(view).cast("B")
