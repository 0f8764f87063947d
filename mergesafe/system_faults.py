"""What the system refused: errors that Python raises for it, in the words of our own."""

from __future__ import annotations

import errno
from typing import Final

from mergesafe.errors import MergesafeError, ResourceError
from mergesafe.extras import missing_package

_MEMORY: Final = (
    "too little memory: the system gave no more{what}. Give a smaller --memory, fewer --threads or "
    "a smaller --batch where the command has them, or free memory."
)
_THREADS: Final = (
    "too few threads: the system lets this process start no more. Give fewer --threads where the "
    "command has them, or raise the limit (ulimit -u)."
)
_ADVICE: Final = {
    errno.ENOSPC: "Free space or choose another disk, then run again.",
    errno.EDQUOT: "Your disk quota is used up: free space, then run again.",
    errno.EROFS: "The file system is read-only: choose another place.",
    errno.EACCES: "You may not write there: choose another place or change its permissions.",
    errno.EPERM: "You may not write there: choose another place or change its permissions.",
    errno.EIO: "The disk reports an error: check it, or choose another one.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
    errno.ENFILE: "The system has too many open files: end what holds them.",
    errno.EFBIG: "Files may not become as large: raise the limit (ulimit -f).",
    errno.EXDEV: (
        "A folder of a container's image, say, cannot be renamed: choose another folder, or delete "
        "that one first."
    ),
    errno.ENOTEMPTY: "Something else wrote to it during the merge: choose another folder.",
    errno.EEXIST: "Something else wrote to it during the merge: choose another folder.",
}
_UNKNOWN: Final = "Check the disk and the path."
#: The same where it is not known whether something was to be read or written.
_ANYWHERE: Final = _ADVICE | dict.fromkeys(
    (errno.EACCES, errno.EPERM), "Check who may read and write it, and the folders above it."
)
#: How libraries say in their own words that memory could not be had: torch's allocator, the loader
#: of shared libraries, C++.
_OF_MEMORY: Final = ("allocate memory", "failed to map segment", "std::bad_alloc")
_OF_THREADS: Final = ("can't start new thread", "Resource temporarily unavailable")


def explained(error: BaseException) -> MergesafeError | None:
    """A fault of the system, or a missing package, as an error with a way out, and an error of ours
    as it is; None where ``error`` is something else.
    """
    if isinstance(error, MergesafeError):
        return error
    text = str(error)
    if isinstance(error, MemoryError):
        return ResourceError(_MEMORY.format(what=f" ({text})" if text else ""))
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, ModuleNotFoundError):
        return missing_package(error)
    if isinstance(error, (RuntimeError, ImportError)):
        if any(words in text for words in _OF_MEMORY):
            return ResourceError(_MEMORY.format(what=f" ({text.splitlines()[0]})"))
        if any(words in text for words in _OF_THREADS):
            return ResourceError(_THREADS)
    return None


def _of_system(error: OSError) -> ResourceError | None:
    if error.errno is None:  # raised by a library in words of its own
        return None
    words = error.strerror or type(error).__name__
    if error.errno == errno.ENOMEM:
        return ResourceError(_MEMORY.format(what=f" ({error.filename})" if error.filename else ""))
    where = f"{error.filename}: " if error.filename is not None else ""
    what = _ANYWHERE.get(error.errno, _UNKNOWN)
    return ResourceError(f"{where}the system reports an error: {words}. {what}")


def advice(error: OSError) -> str:
    """What to do about a file or folder that cannot be written."""
    return _ADVICE.get(error.errno or 0, _UNKNOWN)
