"""The output folder: complete and durable, or absent.

Everything is written to a hidden sibling of the output folder (see _area.py).
:meth:`OutputFolder.commit` syncs it and renames it into place; leaving the ``with`` block in any
other way removes it, unless :attr:`OutputFolder.keep` is set. A process that is killed leaves the
hidden ``.NAME.mergesafe-XXXXXXXX`` folder, never a partial NAME.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType

from mergesafe.checkpoint._area import Area
from mergesafe.checkpoint._guard import check_target, has_content, resolve
from mergesafe.checkpoint._install import install, sync_folder
from mergesafe.checkpoint._parse import reason, show
from mergesafe.checkpoint._shards import Shards, create_file, failing, write_all
from mergesafe.checkpoint.layout import (
    OutputLayout,
    OutputTensor,
    Placement,
    ShardFile,
    plan_layout,
)
from mergesafe.checkpoint.location import Location, open_regular
from mergesafe.checkpoint.model import INDEX_NAME
from mergesafe.errors import ArgumentError, CheckpointError, OutputError

__all__ = [
    "OutputFolder", "OutputLayout", "OutputTensor", "Placement", "ShardFile", "plan_layout",
]  # fmt: skip

_COPY_CHUNK = 1 << 20


class OutputFolder:
    """Writes the shards of ``layout`` and their companions to ``path``, all or nothing.

    ``resume`` is given the path of an earlier run's journal and says whether its shards, where they
    are of this layout, are to be continued; what it raises leaves them alone. Whether their content
    is right is for the caller to check.

    ``overwrite`` allows replacing a folder that has content, except one that is, contains or
    lies inside a path of ``protect`` (the inputs; pass shards too where they may be links).
    """

    def __init__(
        self,
        path: Path,
        layout: OutputLayout,
        *,
        overwrite: bool,
        protect: Sequence[Path],
        resume: Callable[[Path], bool] | None = None,
    ) -> None:
        self.path = resolve(Path(path))
        self.layout = layout
        self._overwrite = overwrite
        self._protect = tuple(protect)
        self._area = Area(self.path)
        self._working = self._area.model
        self._resume = resume
        #: Whether to leave what is written for a later run when the block ends without commit.
        self.keep = False
        #: Whether shards of an earlier run are continued.
        self.resumed = False
        self._parents: list[Path] = []
        self._shards = Shards(layout.shards, self.path)
        self._names = {shard.name for shard in layout.shards} | {INDEX_NAME}
        self._committed = False

    @property
    def working(self) -> Path:
        """The temporary folder that becomes :attr:`path`."""
        return self._working

    @property
    def journal(self) -> Path:
        """Where the caller may keep a journal of what is finished; it goes with the work."""
        return self._area.journal

    def __enter__(self) -> OutputFolder:
        """Check the target and the free space, then create every shard at its full size.

        Raises:
            OutputError: the target is refused, not writable, or has too little space.
        """
        check_target(self.path, overwrite=self._overwrite, protect=self._protect)
        self._check_space()
        try:
            self._make_parents()
            with failing(self.path, "create"):
                self._area.open()
            wanted = self._resume is not None and self._resume(self._area.journal)
            self.resumed = wanted and self._continue()
            if not self.resumed:
                self._begin()
        except BaseException:
            self.keep = (
                self._resume is not None
            )  # an earlier run's work outlives this one's failure to start
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._committed:
            self._leave()

    def pwrite(self, shard: int, offset: int, data: memoryview) -> None:
        """Write ``data`` at the absolute byte ``offset`` of a shard. Thread-safe.

        Raises:
            ArgumentError: no such shard, outside its data, or the folder is closed.
            OutputError: the system could not write; names the file and the bytes.
        """
        self._shards.pwrite(shard, offset, data)

    def add_file(self, name: str, data: bytes | str) -> None:
        """Write a companion file; ``name`` may lie in a subfolder (``a/b.json``).

        Raises:
            ArgumentError: ``name`` leaves the folder or is taken.
            OutputError: the system could not write.
        """
        # Half a surrogate pair, which a configuration may hold as an escape, becomes that again.
        content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
        with self._companion(name) as descriptor:
            write_all(self.path / name, descriptor, 0, memoryview(content))

    def copy_file(self, source: Location, name: str | None = None) -> None:
        """Copy the content of ``source`` (links are followed) as ``name``, by default its own.

        Raises:
            ArgumentError: as :meth:`add_file`.
            CheckpointError: ``source`` cannot be read or is not a regular file.
            OutputError: the system could not write.
        """
        name = source.name if name is None else name
        with open_regular(source) as file, self._companion(name) as descriptor:
            offset = 0
            while True:
                try:
                    chunk = file.read(_COPY_CHUNK)
                except OSError as error:
                    raise CheckpointError(f"{source}: cannot read ({reason(error)}).") from error
                if not chunk:
                    return
                write_all(self.path / name, descriptor, offset, memoryview(chunk))
                offset += len(chunk)

    def commit(self) -> None:
        """Make everything durable and rename the folder into place; the folder is then closed.

        The rename is one step for a new output. Replacing an old folder exchanges the two in
        one step where the system can, else moves it aside and back again on failure.

        Raises:
            ArgumentError: the folder is already committed or was left.
            OutputError: syncing or renaming failed; the old folder, if any, is untouched.
        """
        if self.layout.index is not None:
            self._names.discard(INDEX_NAME)  # reserved until now
            self.add_file(INDEX_NAME, self.layout.index)
        self._shards.sync()
        self._shards.close()
        with failing(self.path, "sync"):
            for folder, _, _ in os.walk(self._working, topdown=False):
                sync_folder(Path(folder))
        with failing(self.path, "rename the finished folder to"):
            old = install(
                self._working, self.path, replace=self._overwrite and has_content(self.path)
            )
        self._committed = True
        with failing(self.path, "sync the folder above"):
            sync_folder(self.path.parent)
        if old is not None:
            _remove(old)
        self._remove_area()

    def _check_space(self) -> None:
        place = next(folder for folder in self.path.parents if os.path.exists(folder))
        with failing(self.path, "ask for the free space of"):
            free = shutil.disk_usage(place).free + _allocated(self._working)
        needed = self.layout.file_bytes
        if needed > free:
            raise OutputError(
                f"{self.path}: the output takes {needed:,} bytes, but {place} has only {free:,} "
                f"free ({needed - free:,} too few). Free space or choose another disk."
            )

    def _make_parents(self) -> None:
        missing = [folder for folder in self.path.parents if not os.path.exists(folder)]
        with failing(self.path, "create"):
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                self._parents.append(folder)

    def _begin(self) -> None:
        """Start afresh: nothing of an earlier run stays, and every shard has its full size."""
        with failing(self.path, "create"):
            if self._working.exists():
                shutil.rmtree(self._working)
            self._area.journal.unlink(missing_ok=True)
        with failing(self.path, "create"):
            self._working.mkdir()
        self._shards.create(self._working)

    def _continue(self) -> bool:
        """Open the shards of an earlier run; False when they are not those of this layout."""
        paths = [self._working / shard.name for shard in self.layout.shards]
        try:
            if [path.stat().st_size for path in paths] != [s.size for s in self.layout.shards]:
                return False
        except OSError:
            return False
        with failing(self.path, "open"):
            for other in set(self._working.iterdir()) - set(paths):  # companions are made again
                shutil.rmtree(other) if other.is_dir() else other.unlink()
        self._shards.reopen(self._working)
        return True

    def sync(self) -> None:
        """Make what is written so far durable.

        Raises:
            OutputError: the system could not.
        """
        self._shards.sync()

    def pread(self, shard: int, offset: int, buffer: memoryview) -> None:
        """Read back what was written; bytes beyond the file's end stay as they are."""
        self._shards.pread(shard, offset, buffer)

    @contextmanager
    def _companion(self, name: str) -> Iterator[int]:
        """Descriptor of the new file ``name``; synced and closed at the end of the block."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise ArgumentError(f"{show(name)} cannot be the name of an output file")
        if name in self._names:
            raise ArgumentError(f"the output already has a file {show(name)}")
        self._names.add(name)
        path = self._working.joinpath(*parts)
        with self._shards.gate:
            with failing(self.path / name, "create"):
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = create_file(path)
            try:
                yield descriptor
                with failing(self.path / name, "sync"):
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _remove_area(self) -> None:
        if self._area.held:  # else it is another process's
            _remove(self._area.path)
            self._area.close()

    def _leave(self) -> None:
        self._shards.close()
        if self.keep and self._area.held and self._working.exists():
            self._area.close()
            return
        self._remove_area()
        for folder in reversed(self._parents):
            with suppress(OSError):  # someone else uses it by now
                folder.rmdir()


def _allocated(folder: Path) -> int:
    """Bytes on the disk of what an earlier run left, which is continued or removed first."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        warnings.warn(f"{folder}: could not be removed ({error}); remove it by hand", stacklevel=3)
