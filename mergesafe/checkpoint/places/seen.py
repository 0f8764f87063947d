"""What a local file was when it was first read: has it been written to or replaced since?

The system sets a file's time of change (ctime) whenever content, names, owner or permissions
change, and nobody can set it back. So a file of another size, time of modification or time of
change is another one, but for one case: permissions, owner or the number of names differ too, or
a replacement kept all three times alike. Copying tools and backups do the first (``chmod``, hard
links), file systems in user space the second (they number files anew at will). Then the header,
which says what lies where, is compared once more.

Not seen: what is written within the same tick of the system's clock (some milliseconds) in which
the header was read; and what whoever owns the file writes, sets the time of modification back
after, and covers by a change of permissions, as long as the header stays the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum


class Change(Enum):
    """How two states of a file differ."""

    NONE = "none"
    LABEL = "label"  # names, owner, permissions or number: its content may be the same
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class FileState:
    """Of a file: its size, times, and what else the system says of it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    #: Device and inode; names, permissions, owner and group.
    number: tuple[int, int]
    label: tuple[int, int, int, int]

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            (status.st_dev, status.st_ino),
            (status.st_nlink, status.st_mode, status.st_uid, status.st_gid),
        )

    def until(self, later: FileState) -> Change:
        """What has changed from this state to a ``later`` one."""
        if (self.size, self.mtime_ns) != (later.size, later.mtime_ns):
            return Change.CONTENT
        if self.ctime_ns != later.ctime_ns:
            relabelled = self.label != later.label and self.number == later.number
            return Change.LABEL if relabelled else Change.CONTENT
        return Change.NONE if self == later else Change.LABEL


@dataclass(frozen=True, slots=True)
class ShardState:
    """A shard as it was when its header was read; ``state``: of a local one."""

    state: FileState | None
    header_sha256: str
