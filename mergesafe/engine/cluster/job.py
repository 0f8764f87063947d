"""A job of a merge that another process carries out, on this machine or another one.

The process opens the inputs and the unfinished shards by their paths, which it must therefore share
with the one that began the merge. A job may be carried out again: it writes the same bytes to the
same places.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.layout import Placement, ShardFile
from mergesafe.checkpoint.output.shards import Shards
from mergesafe.checkpoint.places.location import at
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.resume.entries import Statistics, Tile
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.nonfinite import NonFinite
from mergesafe.engine.run.progress import Span
from mergesafe.engine.run.results import RunResults
from mergesafe.engine.run.workers import Options, Workers, schedule
from mergesafe.errors import CheckpointError, ClusterError, MergesafeError
from mergesafe.methods.registry import file_digest, get_method
from mergesafe.private import open_folder, owner_of
from mergesafe.untrusted import reason
from mergesafe.version import __version__


@dataclass(frozen=True)
class JobContext:
    """What all jobs of a merge have in common. ``target`` is what ``working`` will become."""

    version: str
    options: Options
    backend: str
    device: str
    vram: str | int | None
    working: Path
    target: Path
    #: Whose folder ``working`` is, by number.
    owner: int
    #: Digests of the files of methods that are not mergesafe's own, by their names.
    method_files: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """Some of a plan's tasks, of which ``spans`` are to be done.

    ``spans`` and ``statistics`` number the tasks from 0; in the plan they begin at ``first``.
    ``inputs``: what each local file is known by, see :func:`identity`.
    """

    context: JobContext
    first: int
    tasks: tuple[TensorTask, ...]
    placements: Mapping[str, Sequence[Placement]]
    shards: tuple[ShardFile, ...]
    inputs: Mapping[Path, tuple[int, int]]
    spans: tuple[Span, ...]
    statistics: Mapping[int, Statistics]

    def placement(self, task: TensorTask, part: int = 0) -> Placement:
        return self.placements[task.name][part]

    def __str__(self) -> str:
        first, last = self.tasks[0].name, self.tasks[-1].name
        return f"tensor '{first}'" if first == last else f"tensors '{first}' to '{last}'"


@dataclass
class Outcome:
    """What was done of a job, by which backend; ``moved`` bytes were read and written."""

    backend: str
    entries: list[Tile | Statistics] = field(default_factory=list)
    moved: int = 0


class _Notes:
    """Collects what workers report; see :class:`mergesafe.engine.run.results.Record`."""

    def __init__(self, backend: str) -> None:
        self.outcome = Outcome(backend)
        self._lock = Lock()

    def append(self, entry: Tile | Statistics) -> None:
        with self._lock:
            self.outcome.entries.append(entry)

    def sync(self) -> None:
        """Nothing: notes are sent when all is done."""

    def advance(self, nbytes: int) -> None:
        with self._lock:
            self.outcome.moved += nbytes


def carry_out(job: Job) -> Outcome:
    """Do all of ``job``; what it wrote is durable and visible to other machines afterwards.

    Raises:
        ClusterError: this process does not see the same files, or has another version of mergesafe
            or of a merge method.
        MergesafeError: as the merge in one process.
    """
    context = job.context
    _check_node(job)
    rule = context.options.on_nonfinite
    processor = choose(context.backend, context.device, context.vram, zero_nonfinite=rule == "zero")
    options = processor.fitted(context.options)
    notes = _Notes(processor.name)
    with Reader() as reader, Shards(job.shards, context.target) as shards:
        with _unfinished(context) as folder:
            shards.join(folder)
        results = RunResults(job, shards, notes, NonFinite(rule, reader), progress=notes.advance)
        workers = Workers(
            job, schedule(job, options), options, processor.kernels, reader, results,
            spans=job.spans, statistics=job.statistics,
        )  # fmt: skip
        with processor.pinned(workers.arena):
            workers.run()
        reader.check_unchanged()
        shards.sync()
    return notes.outcome


def identity(fingerprint: Mapping[str, Any]) -> tuple[int, int]:
    """Size and second of modification of a local file: file systems keep no finer time alike."""
    return fingerprint["size"], fingerprint["mtime_ns"] // 10**9


def _check_node(job: Job) -> None:
    check_version(job.context.version)
    check_methods(job.context.method_files)
    check_inputs(job.inputs)
    for shard in job.shards:
        path = job.context.working / shard.name
        try:
            found = path.is_file()
        except OSError as error:  # the folder is open to the user alone who began the merge
            raise _unseen(path, reason(error)) from None
        if not found:
            raise _unseen(path, "no such file there")


def check_methods(files: Mapping[str, str]) -> None:
    """Refuse work whose merge methods are others here: ``files`` has the digests of their files.

    Raises:
        ClusterError: one is missing or another.
    """
    for name, digest in files.items():
        try:
            found = file_digest(get_method(name))
        except MergesafeError as error:
            raise ClusterError(f"{platform.node()}: this node of the cluster: {error}") from error
        if found != digest:
            raise ClusterError(
                f"{platform.node()}: this node of the cluster has another file of the merge method "
                f"'{name}'. Install the same one on every node, and start Ray there again."
            )


@contextmanager
def _unfinished(context: JobContext) -> Iterator[int]:
    """The folder that shards are written in, open: the one that the merge began, not a link."""
    try:
        hidden = open_folder(context.working.parent)
        try:
            folder = open_folder(context.working.name, hidden)
        finally:
            os.close(hidden)
    except OSError as error:
        raise _unseen(context.working, reason(error)) from None
    try:
        if os.fstat(folder).st_uid != context.owner:
            raise _unseen(context.working, f"the folder there belongs to {owner_of(folder)}")
        yield folder
    finally:
        os.close(folder)


def check_version(begun_by: str) -> None:
    """Refuse work that another version began.

    Raises:
        ClusterError: it is another one; names this node.
    """
    if begun_by != __version__:
        raise ClusterError(
            f"{platform.node()}: this node of the cluster has mergesafe {__version__}, the work "
            f"was begun by {begun_by}. Install the same version on every node."
        )


def check_inputs(inputs: Mapping[Path, tuple[int, int]]) -> None:
    """Refuse files that are not what the node that began the work sees.

    Raises:
        ClusterError: one is missing or another one; names it and this node.
    """
    for path, known in inputs.items():
        try:
            here = identity(at(path).fingerprint())
        except CheckpointError as error:
            raise _unseen(path, str(error)) from None
        if here != known:
            raise _unseen(path, "a file of that name has another size or time there")


def _unseen(path: Path, why: str) -> ClusterError:
    return ClusterError(
        f"{platform.node()}: this node of the cluster does not see {path} as the node that began "
        f"the work does ({why.rstrip('.')}). Inputs and output must lie on a file system that all "
        "nodes share, under the same paths."
    )
