"""The output folder: complete and durable, or absent.

Everything is written to a hidden sibling of the output folder (see working.py).
:meth:`OutputFolder.commit` syncs it and renames it into place; leaving the ``with`` block in any
other way removes it, unless :attr:`OutputFolder.keep` is set. A process that is killed leaves the
hidden ``.NAME.mergesafe-XXXXXXXX`` folder, never a partial NAME.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import TracebackType

from mergesafe import private
from mergesafe.checkpoint.format.model import INDEX_NAME
from mergesafe.checkpoint.output._tree import folder_in, size_in, sync_folders
from mergesafe.checkpoint.output.layout import (
    OutputLayout,
    OutputTensor,
    Placement,
    ShardFile,
    plan_layout,
)
from mergesafe.checkpoint.output.shards import Shards, failing, write_all
from mergesafe.checkpoint.output.target_checks import check_target, has_content, resolve
from mergesafe.checkpoint.output.working import WorkingFolder
from mergesafe.checkpoint.places.location import Location, at, stream_of
from mergesafe.checkpoint.places.seen import Change, FileState
from mergesafe.errors import (
    ArgumentError,
    ChangedInputError,
    CheckpointError,
    OutputError,
    UnreadableError,
)
from mergesafe.untrusted import reason, show

__all__ = [
    "OutputFolder", "OutputLayout", "OutputTensor", "Placement", "ShardFile", "plan_layout",
]  # fmt: skip

_COPY_CHUNK = 1 << 20
#: Bytes of the largest file that is copied; genuine tokenizers have a seventh of them.
COPY_LIMIT = 256 << 20


class OutputFolder:
    """Writes the shards of ``layout`` and their companions to ``path``, all or nothing.

    ``resume`` is given the place of an earlier run's journal and says whether its shards, where
    they are of this layout, are to be continued; what it raises leaves them alone. Whether their
    content is right is for the caller to check.

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
        resume: Callable[[private.Place], bool] | None = None,
    ) -> None:
        self.path = resolve(Path(path))
        self.layout = layout
        self._overwrite = overwrite
        self._protect = tuple(protect)
        self._working = WorkingFolder(self.path, overwrite=overwrite)
        self._resume = resume
        #: Whether to leave what is written for a later run when the block ends without commit.
        self.keep = False
        #: Whether shards of an earlier run are continued.
        self.resumed = False
        #: SHA-256 of the companions written so far, by name.
        self.companions: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._shards = Shards(layout.shards, self.path)
        self._names = {shard.name for shard in layout.shards} | {INDEX_NAME}
        self._committed = False

    @property
    def working(self) -> Path:
        """The temporary folder that becomes :attr:`path`."""
        return self._working.path

    @property
    def owner(self) -> int:
        """The number of the user whose folder it is."""
        return os.fstat(self._working.folder).st_uid

    @property
    def journal(self) -> private.Place:
        """Where the caller may keep a journal of what is finished; it goes with the work."""
        return self._working.staging.journal

    def __enter__(self) -> OutputFolder:
        """Check the target and the free space, then create every shard at its full size.

        Raises:
            OutputError: the target is refused, not writable, or has too little space.
        """
        check_target(self.path, overwrite=self._overwrite, protect=self._protect)
        place = next(folder for folder in self.path.parents if os.path.exists(folder))
        try:
            try:
                with failing(self.path, "create"):
                    self._working.open()
            except OutputError as error:
                if isinstance(error.__cause__, OSError):  # the disk may simply be full
                    self._check_space(place)
                raise
            self._check_space(place)
            wanted = self._resume is not None and self._resume(self._working.staging.journal)
            self.resumed = wanted and self._continue()
            if not self.resumed:
                self._begin()
        except BaseException:
            # An earlier run's work outlives this one's failure to start.
            self.keep = self._resume is not None
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
        self.companions[name] = sha256(content).hexdigest()

    def copy_file(
        self, source: Location, name: str | None = None, *, expected: FileState | None = None
    ) -> None:
        """Copy the content of ``source`` (links are followed) as ``name``, by default its own.

        ``expected``: what the file was when it was looked at.

        Raises:
            ArgumentError: as :meth:`add_file`.
            CheckpointError: ``source`` cannot be read, is not a regular file, is larger than
                :data:`COPY_LIMIT`, or has changed.
            OutputError: the system could not write.
        """
        name = source.name if name is None else name
        file = at(source).open()
        with stream_of(file) as stream, self._companion(name) as descriptor:
            if expected and file.state and expected.until(file.state) is Change.CONTENT:
                raise _changed(source)
            offset, digest = 0, sha256()
            while True:
                try:
                    chunk = stream.read(_COPY_CHUNK)
                except OSError as error:
                    raise UnreadableError(f"{source}: cannot read ({reason(error)}).") from error
                if not chunk:
                    break
                if offset + len(chunk) > COPY_LIMIT:
                    raise CheckpointError(too_large(source))
                write_all(self.path / name, descriptor, offset, memoryview(chunk))
                digest.update(chunk)
                offset += len(chunk)
            if file.local and file.changed():
                raise _changed(source)
        self.companions[name] = digest.hexdigest()

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
        with failing(self.path, "sync"):
            sync_folders(self._working.folder, self._sizes)
        with failing(self.path, "rename the finished folder to"):
            replace = self._overwrite and has_content(self.path)
            self._working.install(self._check_installed, replace=replace)
        self._shards.close()
        self._committed = True
        self._working.remove_old()
        self._working.close()

    def _check_installed(self) -> None:
        """Check that the folder holds the files that were written under their names."""
        self._shards.check(self._working.folder)
        for name, size in self._sizes.items():
            if size_in(self._working.folder, name) != size:
                raise private.NotPrivateError(f"something else took the place of its {name}")

    def _check_space(self, place: Path) -> None:
        with failing(self.path, "ask for the free space of"):
            free = shutil.disk_usage(place).free + self._working.staging.allocated()
        needed = self.layout.file_bytes
        if needed > free:
            raise OutputError(
                f"{self.path}: the output takes {needed:,} bytes, but {place} has only {free:,} "
                f"free ({needed - free:,} too few). Free space or choose another disk."
            )

    def _begin(self) -> None:
        """Start afresh: nothing of an earlier run stays, and every shard has its full size."""
        with failing(self.path, "create"):
            self._working.begin()
        self._shards.create(self._working.folder)

    def _continue(self) -> bool:
        """Open the shards of an earlier run; False when they are not those of this layout."""
        try:
            self._working.go_on()
            for shard in self.layout.shards:
                found = os.stat(shard.name, dir_fd=self._working.folder, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode) or found.st_size != shard.size:
                    return False
        except OSError:
            return False
        shards, folder = {shard.name for shard in self.layout.shards}, self._working.folder
        with failing(self.path, "open"):
            for other in set(os.listdir(folder)) - shards:  # companions are made again
                private.remove_tree(other, folder)
        self._shards.reopen(folder)
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
        with self._shards.open_files, ExitStack() as stack:
            with failing(self.path / name, "create"):
                folder = self._working.folder
                for part in parts[:-1]:
                    folder = folder_in(folder, part)
                    stack.callback(private.close, folder)
                descriptor = private.create_file(parts[-1], folder)
            stack.callback(private.close, descriptor)
            yield descriptor
            with failing(self.path / name, "sync"):
                os.fsync(descriptor)
            self._sizes["/".join(parts)] = os.fstat(descriptor).st_size

    def _leave(self) -> None:
        self._shards.close()
        kept = self.keep and self._working.staging.has_model()
        self._working.close(keep=kept)
        if not kept:
            self._working.remove_made()


def too_large(source: Location) -> str:
    """What to say of a file beside the weights that is too large to copy."""
    return (
        f"{source}: larger than {COPY_LIMIT:,} bytes, which no genuine file of this name is. "
        "Download the model again, or remove the file if the model needs none."
    )


def _changed(source: Location) -> ChangedInputError:
    return ChangedInputError(
        f"{source}: the file was written to or replaced during the merge. Leave the checkpoint "
        "alone and run again."
    )
