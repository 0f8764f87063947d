"""A folder that is made under another name and takes its place in one step, whole.

It is ``model`` in a hidden folder beside its place (see staging.py), and is reached by descriptors,
which no renaming changes. A process that is killed leaves the hidden folder; the next one that
makes the same folder finds it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mergesafe import private
from mergesafe.checkpoint.output._install import Installation, install
from mergesafe.checkpoint.output.staging import MODEL, StagingFolder

_MOVED = "another folder has taken its place"


class WorkingFolder:
    """The folder that becomes ``target``, between :meth:`open` and :meth:`close`.

    ``overwrite``: whether it may take the place of a folder that was there at :meth:`open`.
    All methods raise OSError where the system refuses.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target = target
        self.staging = StagingFolder(target)
        self._overwrite = overwrite
        self._made: list[Path] = []
        #: Open folders: the one above the target, this one, and the one whose place it takes.
        self._above = self.folder = self._old = -1
        self._aside: private.Place | None = None

    @property
    def path(self) -> Path:
        """Where it lies until it is installed."""
        return self.staging.path / MODEL

    def open(self) -> None:
        """Open the folder above the target, and make or find the hidden one in it.

        Raises:
            OutputError: another process is making the same folder.
        """
        self._above, self._made = private.make_folders(self.target.parent)
        if self._overwrite:
            with suppress(FileNotFoundError):
                self._old = private.open_folder(self.target.name, self._above)
        self.staging.open(self._above)

    def begin(self) -> None:
        """Make the folder; nothing of an earlier run stays."""
        for name in {MODEL, self.staging.journal.name} & {*os.listdir(self.staging.folder)}:
            private.remove_tree(name, self.staging.folder)
        self.folder = private.make_folder(MODEL, self.staging.folder)

    def go_on(self) -> None:
        """Open the folder that an earlier run made."""
        self.folder = private.open_folder(MODEL, self.staging.folder)

    def install(self, check: Callable[[], None], *, replace: bool) -> None:
        """Put the folder in its place, durably, or leave everything as it was.

        ``check`` looks at what is in it and raises what undoes it all; ``replace``: whether there
        is a folder in its place that is not empty, which :meth:`remove_old` then removes.
        """
        working = private.Place(self.staging.folder, MODEL, self.path)
        target = private.Place(self._above, self.target.name, self.target)
        if replace and not private.is_same(self._old, target.name, target.folder):
            raise private.NotPrivateError(f"{_MOVED} since this command began")
        if not private.is_same(self.folder, working.name, working.folder):
            raise private.NotPrivateError(f"{_MOVED} since this command began")
        installed = install(working, target, replace=replace)
        try:
            self._check(installed, check)
        except BaseException:
            with suppress(OSError):
                installed.undo()
            raise
        self._aside = installed.aside

    def _check(self, installed: Installation, check: Callable[[], None]) -> None:
        aside = installed.aside
        if aside and not private.is_same(self._old, aside.name, aside.folder):
            raise private.NotPrivateError(_MOVED)
        found = os.stat(self.target, follow_symlinks=False)
        if not os.path.samestat(found, os.fstat(self.folder)):
            raise private.NotPrivateError(_MOVED)
        check()
        os.fsync(self._above)

    def remove_old(self) -> None:
        """Remove what was in its place; a warning says what cannot be removed."""
        if self._aside is None:
            return
        try:
            private.remove_tree(self._aside.name, self._aside.folder, self._old)
        except OSError as error:
            warnings.warn(
                f"{self._aside.path}: could not be removed ({error.strerror}); remove it by hand",
                stacklevel=3,
            )

    def close(self, *, keep: bool = False) -> None:
        """Remove the hidden folder, or leave it with what is in it, and let go of everything."""
        if keep:
            self.staging.close()
        else:
            self.staging.remove()  # does nothing where it is another process's
        for descriptor in (self.folder, self._old, self._above):
            if descriptor >= 0:
                private.close(descriptor)
        self.folder = self._old = self._above = -1

    def remove_made(self) -> None:
        """Remove the folders above the target that were made for it, where they are empty."""
        for folder in reversed(self._made):
            with suppress(OSError):  # someone else uses it by now
                folder.rmdir()
