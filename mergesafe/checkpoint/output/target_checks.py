"""Which folders may become the output: refuse whatever would lose something else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mergesafe.errors import OutputError
from mergesafe.private import NotPrivateError, refuse_planted
from mergesafe.untrusted import reason


def resolve(path: Path) -> Path:
    """``path`` without symbolic links; the part that does not exist yet is kept as it is.

    Raises:
        OutputError: a loop of symbolic links, too long a name, a folder that may not be entered; a
            link that another user put there.
    """
    try:
        refuse_planted(path)
    except NotPrivateError as error:
        raise OutputError(
            f"{path}: {error.strerror}; what it leads to would become or be replaced by the "
            "output. Give another name, or a folder that others cannot write to."
        ) from None
    resolved = Path(os.path.realpath(path))
    try:
        resolved.stat()
    except (FileNotFoundError, NotADirectoryError):
        return resolved  # to be created, or refused where it is
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be looked at ({reason(error)}). Give another folder."
        ) from error
    return resolved


def check_target(target: Path, *, overwrite: bool, protect: Sequence[Path]) -> None:
    """Check that the resolved path ``target`` may become the output folder.

    Raises:
        OutputError: it is a file, a mount point, the current or home folder or one above them;
            it has content and ``overwrite`` is off; or ``overwrite`` is on and it is, contains or
            lies inside one of ``protect``.
    """
    for place in _essential():
        if target == place or target in place.parents:
            raise OutputError(
                f"{target}: the output folder is {place} or lies above it, and it would be "
                "replaced. Give the name of a new folder."
            )
    if os.path.lexists(target) and not os.path.isdir(target):
        raise OutputError(f"{target}: this is a file. Give the name of a new folder.")
    if os.path.isdir(target):
        if os.path.ismount(target):
            raise OutputError(
                f"{target}: this is a mount point, which cannot be replaced in one step. Give a "
                "folder inside it."
            )
        if not overwrite and has_content(target):
            raise OutputError(
                f"{target}: the output folder is not empty. Give another folder, or --overwrite "
                "to replace it."
            )
    if overwrite:
        for path in protect:
            _check_apart(target, path)


def has_content(folder: Path) -> bool:
    """Whether ``folder`` exists and holds anything.

    Raises:
        OutputError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"{folder}: cannot list the folder ({reason(error)}).") from error


def _essential() -> Iterator[Path]:
    """The current folder and the home folder, where they exist."""
    for find in (Path.cwd, Path.home):
        try:
            yield find().resolve()
        except (OSError, RuntimeError):
            continue  # the current folder was removed, or the user has no home: nothing to protect


def _check_apart(target: Path, path: Path) -> None:
    if _identity(target) in _lineage(path):
        raise OutputError(
            f"{target}: overwriting it would delete the input {path}. Give another output folder."
        )
    if _identity(path) in _lineage(target):
        raise OutputError(
            f"{target}: the output folder lies inside the input {path}. Give a folder outside it."
        )


def _identity(path: Path) -> tuple[int, int] | str:
    # Device and inode see through links, bind mounts and case-insensitive names alike.
    try:
        status = path.stat()
    except OSError:
        return str(path)  # what does not exist is equal to nothing
    return status.st_dev, status.st_ino


def _lineage(path: Path) -> set[tuple[int, int] | str]:
    """Identities of ``path`` and of all folders above it, with links followed and not."""
    named = Path(os.path.abspath(path))
    real = Path(os.path.realpath(path))
    return {_identity(place) for start in (named, real) for place in (start, *start.parents)}
