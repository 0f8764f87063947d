"""The output folder: complete and durable, or absent.

Everything is written to a hidden sibling of the output folder (see _area.py).
:meth:`OutputFolder.commit` syncs it and renames it into place; leaving the ``with`` block in any
other way removes it, unless :attr:`OutputFolder.keep` is set. A process that is killed leaves the
hidden ``.NAME.mergesafe-XXXXXXXX`` folder, never a partial NAME.
"""

from __future__ import annotations

import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import TracebackType

from mergesafe import private
from mergesafe.checkpoint._area import MODEL, Area
from mergesafe.checkpoint._guard import check_target, has_content, resolve
from mergesafe.checkpoint._install import Installed, install
from mergesafe.checkpoint._parse import reason, show
from mergesafe.checkpoint._shards import Shards, failing, write_all
from mergesafe.checkpoint._tree import folder_in, size_in, sync_folders
from mergesafe.checkpoint.layout import (
    OutputLayout,
    OutputTensor,
    Placement,
    ShardFile,
    plan_layout,
)
from mergesafe.checkpoint.location import Location, at, stream_of
from mergesafe.checkpoint.model import INDEX_NAME
from mergesafe.checkpoint.seen import Change, FileState
from mergesafe.errors import ArgumentError, ChangedInputError, CheckpointError, OutputError

__all__ = [
    "OutputFolder", "OutputLayout", "OutputTensor", "Placement", "ShardFile", "plan_layout",
]  # fmt: skip

_COPY_CHUNK = 1 << 20


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
        self._area = Area(self.path)
        self._resume = resume
        #: Whether to leave what is written for a later run when the block ends without commit.
        self.keep = False
        #: Whether shards of an earlier run are continued.
        self.resumed = False
        #: SHA-256 of the companions written so far, by name.
        self.companions: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._parents: list[Path] = []
        #: Open folders: the one above the output, the output while it is made, and the one that is
        #: replaced.
        self._above = self._model = self._old = -1
        self._shards = Shards(layout.shards, self.path)
        self._names = {shard.name for shard in layout.shards} | {INDEX_NAME}
        self._committed = False

    @property
    def working(self) -> Path:
        """The temporary folder that becomes :attr:`path`."""
        return self._area.path / MODEL

    @property
    def owner(self) -> int:
        """The number of the user whose folder it is."""
        return os.fstat(self._model).st_uid

    @property
    def journal(self) -> private.Place:
        """Where the caller may keep a journal of what is finished; it goes with the work."""
        return self._area.journal

    def __enter__(self) -> OutputFolder:
        """Check the target and the free space, then create every shard at its full size.

        Raises:
            OutputError: the target is refused, not writable, or has too little space.
        """
        check_target(self.path, overwrite=self._overwrite, protect=self._protect)
        place = next(folder for folder in self.path.parents if os.path.exists(folder))
        try:
            try:
                self._open_area()
            except OutputError as error:
                if isinstance(error.__cause__, OSError):  # the disk may simply be full
                    self._check_space(place)
                raise
            self._check_space(place)
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
        self.companions[name] = sha256(content).hexdigest()

    def copy_file(
        self, source: Location, name: str | None = None, *, expected: FileState | None = None
    ) -> None:
        """Copy the content of ``source`` (links are followed) as ``name``, by default its own.

        ``expected``: what the file was when it was looked at.

        Raises:
            ArgumentError: as :meth:`add_file`.
            CheckpointError: ``source`` cannot be read, is not a regular file, or has changed.
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
                    raise CheckpointError(f"{source}: cannot read ({reason(error)}).") from error
                if not chunk:
                    break
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
            sync_folders(self._model, self._sizes)
        with failing(self.path, "rename the finished folder to"):
            installed = self._install()
        self._shards.close()
        self._committed = True
        if installed.aside is not None:
            self._remove_old(installed.aside)
        self._close()

    def _install(self) -> Installed:
        """Put the model in its place, durably, or leave everything as it was."""
        working = private.Place(self._area.folder, MODEL, self.working)
        target = private.Place(self._above, self.path.name, self.path)
        replace = self._overwrite and has_content(self.path)
        if replace and not private.is_same(self._old, target.name, target.folder):
            raise private.NotPrivateError("another folder has taken its place during the merge")
        if not private.is_same(self._model, working.name, working.folder):
            raise private.NotPrivateError("another one has taken its place during the merge")
        installed = install(working, target, replace=replace)
        try:
            aside = installed.aside
            if aside and not private.is_same(self._old, aside.name, aside.folder):
                raise private.NotPrivateError("another folder has taken its place")
            self._check_installed()
            os.fsync(self._above)
        except BaseException:
            with suppress(OSError):
                installed.undo()
            raise
        return installed

    def _check_installed(self) -> None:
        """Check that what was written, and nothing else, is found under the output's name."""
        found = os.stat(self.path, follow_symlinks=False)
        if not os.path.samestat(found, os.fstat(self._model)):
            raise private.NotPrivateError("another folder has taken its place")
        self._shards.check(self._model)
        for name, size in self._sizes.items():
            if size_in(self._model, name) != size:
                raise private.NotPrivateError(f"something else took the place of its {name}")

    def _remove_old(self, aside: private.Place) -> None:
        try:
            private.remove_tree(aside.name, aside.folder, self._old)
        except OSError as error:
            warnings.warn(
                f"{aside.path}: could not be removed ({error.strerror}); remove it by hand",
                stacklevel=3,
            )

    def _check_space(self, place: Path) -> None:
        with failing(self.path, "ask for the free space of"):
            free = shutil.disk_usage(place).free + self._area.allocated()
        needed = self.layout.file_bytes
        if needed > free:
            raise OutputError(
                f"{self.path}: the output takes {needed:,} bytes, but {place} has only {free:,} "
                f"free ({needed - free:,} too few). Free space or choose another disk."
            )

    def _open_area(self) -> None:
        """Open the folder above, and make or find the hidden one in it."""
        with failing(self.path, "create"):
            self._above, self._parents = private.make_folders(self.path.parent)
            if self._overwrite:
                with suppress(FileNotFoundError):
                    self._old = private.open_folder(self.path.name, self._above)
            self._area.open(self._above)

    def _begin(self) -> None:
        """Start afresh: nothing of an earlier run stays, and every shard has its full size."""
        with failing(self.path, "create"):
            for name in {MODEL, self._area.journal.name} & {*os.listdir(self._area.folder)}:
                private.remove_tree(name, self._area.folder)
            self._model = private.make_folder(MODEL, self._area.folder)
        self._shards.create(self._model)

    def _continue(self) -> bool:
        """Open the shards of an earlier run; False when they are not those of this layout."""
        try:
            self._model = private.open_folder(MODEL, self._area.folder)
            for shard in self.layout.shards:
                found = os.stat(shard.name, dir_fd=self._model, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode) or found.st_size != shard.size:
                    return False
        except OSError:
            return False
        shards = {shard.name for shard in self.layout.shards}
        with failing(self.path, "open"):
            for other in set(os.listdir(self._model)) - shards:  # companions are made again
                private.remove_tree(other, self._model)
        self._shards.reopen(self._model)
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
        with self._shards.gate, ExitStack() as stack:
            with failing(self.path / name, "create"):
                folder = self._model
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
        kept = self.keep and self._area.has_model()
        self._close(keep=kept)
        if kept:
            return
        for folder in reversed(self._parents):
            with suppress(OSError):  # someone else uses it by now
                folder.rmdir()

    def _close(self, *, keep: bool = False) -> None:
        """Remove the hidden folder, or leave it with what is in it, and let go of everything."""
        if keep:
            self._area.close()
        else:
            self._area.remove()  # does nothing where it is another process's
        for descriptor in (self._model, self._old, self._above):
            if descriptor >= 0:
                private.close(descriptor)
        self._model = self._old = self._above = -1


def _changed(source: Location) -> ChangedInputError:
    return ChangedInputError(
        f"{source}: the file was written to or replaced during the merge. Leave the checkpoint "
        "alone and run again."
    )
