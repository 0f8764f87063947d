"""What leaves a layer for every token, in memory or in a file without a name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import torch

from mergesafe.errors import OutputError
from mergesafe.system_faults import advice
from mergesafe.untrusted import reason

SIZE: Final = 4


class States:
    """Rows [tokens, width] in float32 of every record, in ``slots`` numbered sets.

    Args:
        lengths: the tokens of each record.
        width: numbers of a token.
        slots: how many sets there are.
        folder: where the file lies, which has no name and so leaves nothing behind; None keeps the
            rows in memory.
    """

    def __init__(self, lengths: Sequence[int], width: int, slots: int, folder: Path | None) -> None:
        self._lengths, self.width, self._folder = lengths, width, folder
        self._places = [0]
        for length in lengths:
            self._places.append(self._places[-1] + length * width * SIZE)
        self._held: dict[tuple[int, int], torch.Tensor] = {}
        self._file: Any = None
        if folder is not None:
            try:
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed in __exit__
                self._file.truncate(slots * self._places[-1])
            except OSError as error:
                raise self._failed(error) from error

    def __enter__(self) -> States:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, slot: int, record: int, rows: torch.Tensor) -> None:
        """Keep the rows [tokens, width] of a record.

        Raises:
            OutputError: the file cannot be written.
        """
        rows = rows.detach().reshape(-1, self.width).to("cpu", torch.float32).contiguous()
        if self._file is None:
            self._held[slot, record] = rows.clone()
            return
        data, place = memoryview(rows.numpy()).cast("B"), self._place(slot, record)  # type: ignore[arg-type]
        try:
            while data:
                count = os.pwrite(self._file.fileno(), data, place)
                data, place = data[count:], place + count
        except OSError as error:
            raise self._failed(error) from error

    def get(self, slot: int, record: int) -> torch.Tensor:
        """The rows that were kept, which must not be written to.

        Raises:
            OutputError: the file cannot be read.
        """
        if self._file is None:
            return self._held[slot, record]
        rows = torch.empty(self._lengths[record], self.width)
        data, place = memoryview(rows.numpy()).cast("B"), self._place(slot, record)  # type: ignore[arg-type]
        try:
            while data:
                count = os.preadv(self._file.fileno(), [data], place)
                if not count:
                    raise OSError(5, "the file has shrunk")
                data, place = data[count:], place + count
        except OSError as error:
            raise self._failed(error) from error
        return rows

    def _place(self, slot: int, record: int) -> int:
        return slot * self._places[-1] + self._places[record]

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._folder}: the hidden states of the records cannot be kept in a file here "
            f"({reason(error)}). {advice(error)}"
        )


def state_bytes(tokens: int, width: int, slots: int) -> int:
    """What :class:`States` takes."""
    return tokens * width * slots * SIZE
