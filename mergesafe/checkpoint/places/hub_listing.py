"""What the Hub says of a model's files, checked: names and commits become paths of the cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.errors import CheckpointError

#: Files of one model: the largest have some hundreds.
MAX_FILES: Final = 100_000
#: What the file systems of Linux and macOS take for one name, and for a path.
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 1024
_LARGEST: Final = 1 << 50
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")
_DIGEST: Final = re.compile(r"[0-9A-Za-z-]{1,128}")


@dataclass(frozen=True)
class HubFile:
    """One file of a commit: ``hashes`` are what the Hub knows of its content."""

    size: int
    hashes: Mapping[str, str]


def listing(siblings: Iterable[Any] | None, text: str) -> dict[str, HubFile]:
    """The files of the model ``text`` by name, but for names that a file system may not take:
    nothing reads such files, and a picture with an odd name is no reason to refuse its model.

    Raises:
        CheckpointError: a name leads out of the folder, or something is not what the Hub says of a
            file.
    """
    files: dict[str, HubFile] = {}
    for count, each in enumerate(siblings or (), 1):
        name = each.rfilename
        if not isinstance(name, str) or not _stays(name):
            raise CheckpointError(
                f"{text}: the Hub names a file {str(name)[:80]!a}, which is no name of a file in "
                "the model's folder. mergesafe reads nothing of this model."
            )
        if _is_inside(name):
            files[name] = _file(each, f"{text}/{name}")
        if count > MAX_FILES:
            raise CheckpointError(f"{text}: the Hub names more than {MAX_FILES:,} files.")
    return files


def check_commit(commit: object, text: str) -> str:
    """The commit, which names a folder of the cache.

    Raises:
        CheckpointError: it is none.
    """
    if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
        raise CheckpointError(
            f"{text}: the Hub names the commit {str(commit)[:80]!a}; expected 40 to 64 "
            "hexadecimal digits. mergesafe reads nothing of this model."
        )
    return commit


def check_revision(revision: str | None, text: str) -> None:
    """Check a branch, tag or commit, which names a file of the cache.

    Raises:
        CheckpointError: it leads out of there.
    """
    if revision is not None and not _is_inside(revision):
        raise CheckpointError(
            f"{text}: {revision[:80]!a} is not the name of a branch, tag or commit. Check "
            "what follows the '@'."
        )


def _stays(name: str) -> bool:
    """Whether ``name`` does not lead out of its folder, whatever takes it for a path."""
    return not {"", ".", ".."} & set(name.replace("\\", "/").split("/"))


def _is_inside(name: str) -> bool:
    """Whether ``name`` is a path of plain names with slashes between them."""
    parts = name.split("/")
    return (
        name.isprintable()
        and "\\" not in name
        and len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_PATH
        and all(
            part not in ("", ".", "..") and len(part.encode("utf-8")) <= _LONGEST_NAME
            for part in parts
        )
    )


def _file(each: Any, where: str) -> HubFile:
    size = each.size or 0
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _LARGEST:
        raise CheckpointError(
            f"{where}: the Hub says that it has {str(size)[:40]} bytes; expected a number of at "
            f"most {_LARGEST:,}."
        )
    # The blob of a file in large file storage is that of its pointer: its own hash counts.
    kind, digest = ("sha256", each.lfs.sha256) if each.lfs else ("git_sha1", str(each.blob_id))
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise CheckpointError(
            f"{where}: the Hub names the digest {str(digest)[:80]!a}; expected letters and digits."
        )
    return HubFile(size, {kind: digest})
