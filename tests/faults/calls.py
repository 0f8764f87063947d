"""Calls of merges that fail, by what they do and where."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Final

from .fault import Fault, failing

_MERGES: Final = ("single", "shards", "passes", "replace")
_OUT: Final = "*/disk/*"
_SHARD: Final = "*/disk/*.safetensors"
_IN: Final = "*/inputs/*"

#: Kinds of calls, on which paths, and what happens at which of them: from 0, the first, to 1, the
#: last; "+" where it lasts.
_TABLE: Final[tuple[tuple[str, str, str], ...]] = (
    ("mkdir", _OUT, "EACCES@0 ENOSPC@0 EROFS@0"),
    ("create", "*/disk/*lock", "EMFILE@0"),
    ("create", _SHARD, "ENOSPC@0"),
    ("create", "*/disk/*journal*", "EMFILE@0"),
    ("create", "*/disk/*README.md", "ENOSPC@0"),
    ("lock", _OUT, "EINTR@0 ENOLCK@0 EIO@0"),
    ("space", "*", "EIO@0"),
    ("allocate", _SHARD, "ENOSPC@0 EIO@0 EOPNOTSUPP@0"),
    ("write", _SHARD, "ENOSPC@0 ENOSPC@0.5 ENOSPC@1+ EIO@0.5 EINTR@0.5 short@0.5"),
    ("write", "*/disk/*journal*", "ENOSPC@0 ENOSPC@0.5 short@0 short@0.5"),
    ("write", "*/disk/*manifest.json", "ENOSPC@0 short@0"),
    ("write", "*/disk/*README.md", "EDQUOT@0+"),
    ("sync", "*/disk/*journal*", "EIO@0"),
    ("sync", _SHARD, "EIO@0"),
    ("sync", "*/disk/*config.json", "EIO@0"),
    ("sync", _OUT, "EIO@1 EINTR@1"),
    ("rename", _OUT, "EIO@0 EIO@1 EACCES@1 EINVAL@1"),
    ("close", _OUT, "EIO@0 EIO@1 EINTR@0"),
    ("unlink", _OUT, "EIO@0 EIO@1 EBUSY@1"),
    ("stat", _OUT, "EIO@0 EIO@0.5"),
    ("open", _OUT, "EIO@0.5+"),
    ("read", _IN, "EIO@0.5 EIO@1 short@0.5 EINTR@0.5"),
    ("read", "*/inputs/*config.json", "EIO@0"),
    ("open", _IN, "EIO@0.4 EMFILE@1 EACCES@0.4 ENOENT@1"),
    ("stat", _IN, "EIO@0.1 EACCES@0.5 EIO@0.5"),
    ("list", _IN, "EIO@0 EIO@1"),
    ("close", _IN, "EIO@0.5"),
    ("mmap", "*", "ENOMEM@1 ENOMEM@1+"),
    ("malloc", "*", "ENOMEM@0.9 ENOMEM@1"),
    ("thread", "*", "EAGAIN@0 EAGAIN@1 EAGAIN@0+"),
    ("write", _OUT, "slow@0.7"),
)


def faults() -> Iterator[Fault]:
    """Each for one of the merges, in turn."""
    subjects = cycle(_MERGES)
    for kinds, match, events in _TABLE:
        for event in events.split():
            error, _, place = event.partition("@")
            at, lasts = float(place.rstrip("+")), place.endswith("+")
            yield failing(next(subjects), kinds, match, error, at, lasts)
    # Where two folders cannot be exchanged in one step.
    yield failing("replace", "rename", "*/disk/out", "EINVAL")
    # Work that a failed run keeps, and goes on from.
    for subject, error, at in (
        ("passes", "ENOSPC", 0.5), ("shards", "EIO", 0.7), ("single", "EDQUOT", 0.9),
        ("passes", "EROFS", 0.8),
    ):  # fmt: skip
        yield failing(subject, "write", _OUT, error, at, True, options=("--resume",))
