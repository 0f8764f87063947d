"""Folders of this user alone: nobody else may read what is in them or put anything there."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from mergesafe.private import (
    NotPrivateError,
    close,
    is_ours,
    keeps_modes,
    open_folder,
    others_may_write,
    owner_of,
)


def make_private(folder: Path) -> None:
    """Make ``folder`` and those above it where they are missing; it is to be of this user alone.

    Raises:
        NotPrivateError: it belongs to somebody else, or others may write to it.
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    descriptor = open_folder(folder, follow=True)
    try:
        check_private(descriptor)
    finally:
        close(descriptor)


def check_private(descriptor: int) -> None:
    """Refuse an open folder in which others may put things.

    Raises:
        NotPrivateError: it belongs to somebody else, or others may write to it.
    """
    status = os.fstat(descriptor)
    if not is_ours(status, descriptor):
        raise NotPrivateError(f"the folder belongs to {owner_of(descriptor)}")
    if others_may_write(status) and not _only_group(status) and keeps_modes(descriptor):
        raise NotPrivateError("others may write to the folder (chmod go-w it)")


def _only_group(status: os.stat_result) -> bool:
    """Whether those others are a group of the user alone, as most systems give each user."""
    if status.st_mode & stat.S_IWOTH:
        return False
    try:
        import grp
        import pwd

        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(status.st_gid)
    except (ImportError, KeyError):
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
