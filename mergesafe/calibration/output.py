"""The folder of calibration: complete or absent, and resumed tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import torch

from mergesafe.checkpoint.format.digest import digest_of_range, text
from mergesafe.checkpoint.output.folder import OutputFolder, OutputTensor, plan_layout
from mergesafe.errors import MergesafeError
from mergesafe.journal import Journal, Kind, Line
from mergesafe.outline.provenance import PROVENANCE_NAME
from mergesafe.private import Place
from mergesafe.version import __version__

CALIBRATE: Final = Kind(
    command="calibrate",
    work="calibration",
    option="folder",
    afresh="Calibrate without --resume to start afresh, which discards the unfinished work.",
    limit=64 << 20,
)
_DTYPE: Final = "F32"
_SIZE: Final = 4


class CalibrationFolder:
    """Tensors in float32 at ``target``, each written once as a whole or by rows.

    Args:
        shapes: of every tensor, by name, in their order.
        shard: bytes of the largest file.
        subject: what the numbers depend on, for ``resume``.
        protect: what must not be replaced.

    Raises:
        OutputError: the folder cannot be written, or what is to be resumed is of something else.
    """

    def __init__(
        self, target: Path, shapes: Mapping[str, tuple[int, ...]], shard: int, subject: Line, *,
        overwrite: bool, resume: bool, protect: Sequence[Path],
    ) -> None:  # fmt: skip
        tensors = [OutputTensor(name, _DTYPE, shape) for name, shape in shapes.items()]
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._layout = plan_layout(tensors, shard, {"mergesafe_version": __version__})
        self._subject, self._keep = json.loads(json.dumps(subject)), resume
        self._found: dict[str, str] = {}
        self._folder = OutputFolder(
            target, self._layout, overwrite=overwrite, protect=protect,
            resume=self._look if resume else None,
        )  # fmt: skip
        self._stack = ExitStack()
        #: Tensors that are written.
        self.finished: set[str] = set()

    @property
    def path(self) -> Path:
        """The folder that is made."""
        return self._folder.path

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return self._layout.total_size

    def __enter__(self) -> CalibrationFolder:
        with ExitStack() as stack:
            stack.enter_context(self._folder)
            self._folder.keep = self._keep
            if self._folder.resumed:
                self.finished = {n for n, digest in self._found.items() if self._is(n, digest)}
            self._journal = stack.enter_context(Journal(self._folder.journal, CALIBRATE))
            self._journal.begin(
                self._subject,
                [_record(n, d) for n, d in self._found.items() if n in self.finished],
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = bool(self.finished) and error is not None
        self._folder.keep = left
        if left:
            advice = (
                f"{len(self.finished):,} of {len(self._tensors):,} tensors are finished and kept: "
                "run the same command with --resume to continue"
            )
            if isinstance(error, KeyboardInterrupt):
                error.args = (f"interrupted; {advice}",)
            elif isinstance(error, MergesafeError) and error.args:
                error.args = (
                    f"{error.args[0]} ({advice[0].upper()}{advice[1:]}.)",
                    *error.args[1:],
                )
        self._stack.__exit__(kind, error, trace)

    def write(self, name: str, value: torch.Tensor, first: int = 0) -> None:
        """Elements of a tensor from element ``first`` on.

        Raises:
            OutputError: they cannot be written.
        """
        data: Any = value.detach().to("cpu", torch.float32).contiguous().reshape(-1).numpy()
        place = self._layout.placements[name]
        self._folder.pwrite(place.shard, place.offset + first * _SIZE, memoryview(data).cast("B"))

    def finish(self, names: Sequence[str]) -> None:
        """These tensors are written.

        Raises:
            OutputError: that cannot be made durable.
        """
        self._folder.sync()
        for name in names:
            self._journal.append(_record(name, self._digest(name)))
            self.finished.add(name)

    def read(self, name: str) -> torch.Tensor:
        """A tensor that is finished."""
        tensor, place = self._tensors[name], self._layout.placements[name]
        made = torch.empty(tensor.shape)
        view: Any = made.reshape(-1).numpy()
        self._folder.pread(place.shard, place.offset, memoryview(view).cast("B"))
        return made

    def commit(self, provenance: Mapping[str, Any]) -> None:
        """Put the finished folder in its place.

        Raises:
            OutputError: it cannot be.
        """
        content = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
        self._folder.add_file(PROVENANCE_NAME, content)
        self._folder.commit()

    def _look(self, place: Place) -> bool:
        with Journal(place, CALIBRATE) as file:
            found = file.read()
        if found is None:
            return False
        old = found.subject or {}
        for key, value in self._subject.items():
            if old.get(key) != value:
                raise CALIBRATE.refusal(
                    self._folder.path, f"{key} has changed since: it was {old.get(key)!r}"
                )
        self._found = {
            each["tensor"]: each["digest"]
            for each in found.records
            if isinstance(each, dict) and {"tensor", "digest"} <= each.keys()
        }
        return True

    def _is(self, name: str, digest: str) -> bool:
        return name in self._tensors and self._digest(name) == digest

    def _digest(self, name: str) -> str:
        place = self._layout.placements[name]
        read = partial(self._folder.pread, place.shard)
        return text(digest_of_range(read, place.offset, self._tensors[name].nbytes))


def _record(name: str, digest: str) -> Line:
    return {"tensor": name, "digest": digest}
