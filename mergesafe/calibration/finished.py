"""Calibration that is complete, found by a run that makes several folders and is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mergesafe.chat.weights import read
from mergesafe.checkpoint.format.model import Checkpoint, open_checkpoint
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.outline.provenance import provenance_of


class FinishedFolder:
    """In place of a :class:`mergesafe.calibration.output.CalibrationFolder` with nothing to do."""

    def __init__(self, checkpoint: Checkpoint, reader: Reader) -> None:
        self._tensors, self._reader = checkpoint.tensors, reader
        #: Tensors that are written.
        self.finished = set(checkpoint.tensors)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self._tensors.values())

    def read(self, name: str) -> torch.Tensor:
        """A tensor."""
        return read(Stored(self._tensors[name]), self._reader)

    def commit(self, provenance: Mapping[str, Any]) -> None:
        """It is in its place."""


def finished_folder(
    path: Path, shapes: Mapping[str, tuple[int, ...]], about: Mapping[str, Any], reader: Reader
) -> FinishedFolder | None:
    """What lies at ``path`` if that says that it was made of the same, and holds these tensors.

    Raises:
        CheckpointError: it cannot be read.
    """
    if not path.is_dir():
        return None
    checkpoint = open_checkpoint(path)
    there = {name: info.shape for name, info in checkpoint.tensors.items()}
    same = _subject(provenance_of(checkpoint)) == _subject(about)
    return FinishedFolder(checkpoint, reader) if same and there == shapes else None


def _subject(about: Mapping[str, Any]) -> list[Any]:
    """What numbers depend on; what files are called is not part of it."""
    model, data = about.get("model"), about.get("data")
    return [
        *(about.get(key) for key in ("mergesafe", "kind", "options", "through_merge")),
        model.get("identity") if isinstance(model, Mapping) else None,
        data.get("sha256") if isinstance(data, Mapping) else None,
    ]
