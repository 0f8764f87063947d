"""Locks on open files, which end with the process.

filelock's FileLock locks paths, for one process alone; here files that are
open already are locked, some of them shared.
"""

from __future__ import annotations

import errno
import fcntl
from typing import Final

#: File systems without locks: two processes there cannot be kept apart.
_NO_LOCKS: Final = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))


def take_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file for this process alone, or ``shared`` with others that ask for that.

    Returns whether it is locked: False where the file system has no locks.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be locked.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
