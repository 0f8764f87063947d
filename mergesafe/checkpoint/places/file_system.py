"""Folders that fsspec reaches: files are read by ranges, with a known size and version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from mergesafe.checkpoint.places.remote import (
    ADVICE,
    PassingError,
    RemoteError,
    RemoteFile,
    retried,
    within,
)
from mergesafe.errors import ChangedInputError, CheckpointError
from mergesafe.extras import install
from mergesafe.references import redact, redact_text
from mergesafe.untrusted import reason

#: What file systems call a version of a file, the most telling first -> what we call it.
_VERSIONS: Final = {
    "ETag": "etag", "etag": "etag", "generation": "generation", "md5Hash": "md5",
    "blob_id": "git_sha1", "LastModified": "modified", "last_modified": "modified",
    "mtime": "modified", "updated": "modified", "created": "modified",
}  # fmt: skip


@dataclass(frozen=True)
class Info:
    """What a server says about a file or folder. ``ranged``: it serves ranges of it."""

    size: int | None
    folder: bool = False
    ranged: bool = True
    version: dict[str, Any] = field(default_factory=dict)


def file_system(url: str, failure: type[Exception]) -> tuple[Any, str]:
    """fsspec's file system for ``url`` and the path in it.

    Raises:
        failure: a package is missing, or the URL makes no sense to it.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise failure(
            f"{redact(url)}: URLs are read and written by fsspec, which is not installed. Run "
            f"{install('remote')}."
        ) from None
    try:
        fs, root = url_to_fs(url)
    except ImportError as error:
        raise failure(
            f"{redact(url)}: fsspec lacks a package for such URLs ({redact_text(str(error))}). "
            "Install it beside the extra 'remote'."
        ) from None
    except Exception as error:  # each file system has its own
        raise failure(f"{redact(url)}: cannot be used ({why(error)}). Check the URL.") from None
    return fs, str(root)


class FileSystemStore:
    """A model's folder in an fsspec file system."""

    def __init__(self, fs: Any, root: str, text: str) -> None:
        self.fs, self.root, self.text = fs, root.rstrip("/"), text
        self._known: dict[str, Info | None] = {}
        self._opened: set[str] = set()

    def exists(self, name: str) -> bool:
        return self._look(name) is not None

    def is_dir(self, name: str) -> bool:
        found = self._look(name)
        return found is not None and found.folder

    def names(self, name: str) -> list[str] | None:
        if not self.is_dir(name):
            raise RemoteError("no such folder")
        found = retried(
            lambda: within(lambda: attempt(lambda: self.fs.ls(self.path(name), detail=False)))
        )
        return [PurePosixPath(path).name for path in found]

    def open(self, name: str) -> RemoteFile:
        known, size = self._file(name)
        if name in self._opened and self._changed(name, known):
            raise ChangedInputError(
                f"{self.text}/{name}: the file changed after its header was read. Leave the "
                "checkpoint alone and run again."
            )
        self._opened.add(name)
        return RemoteFile(
            size,
            lambda begin, end: retried(lambda: self._range(name, begin, end, known)),
            lambda: self._changed(name, known),
        )

    def fingerprint(self, name: str) -> dict[str, Any]:
        known, size = self._file(name)
        return {"size": size, **known.version}

    def path(self, name: str) -> str:
        """What the file system calls the file."""
        return f"{self.root}/{name}" if name else self.root

    def find(self, name: str) -> Info | None:
        """Ask the file system about the file; None where there is no such file.

        Raises:
            PassingError, RemoteError: it did not answer.
        """
        try:
            found = within(lambda: attempt(lambda: self.fs.info(self.path(name))))
        except FileNotFoundError:
            return None
        version = {_VERSIONS[key]: str(found[key]) for key in _VERSIONS if found.get(key)}
        return Info(found.get("size"), found.get("type") == "directory", True, version)

    def fetch(self, name: str, begin: int, end: int, known: Info) -> bytes:
        """Bytes [begin, end) of the file, or what the file system took for them.

        Raises:
            PassingError, RemoteError, FileNotFoundError: it could not.
        """
        from fsspec import AbstractFileSystem

        # fsspec's own cat_file reads ahead of what it is asked for.
        plain = type(self.fs).cat_file is AbstractFileSystem.cat_file
        options = {"cache_type": "none"} if plain else {}
        data: bytes = within(
            lambda: attempt(lambda: self.fs.cat_file(self.path(name), begin, end, **options)),
            end - begin,
        )
        return data

    def _look(self, name: str) -> Info | None:
        if name not in self._known:
            self._known[name] = self._ask(name)
        return self._known[name]

    def _ask(self, name: str) -> Info | None:
        try:
            return retried(lambda: self.find(name))
        except RemoteError as error:
            where = f"{self.text}/{name}" if name else self.text
            raise CheckpointError(f"{where}: {reason(error)}. {ADVICE}") from None

    def _changed(self, name: str, known: Info) -> bool:
        self.fs.invalidate_cache(self.path(name).rpartition("/")[0])
        return self._ask(name) != known

    def _file(self, name: str) -> tuple[Info, int]:
        known = self._look(name)
        if known is None:
            raise CheckpointError(f"{self.text}/{name}: no such file there. Check the address.")
        if known.folder:
            raise CheckpointError(f"{self.text}/{name}: this is a folder, expected a regular file.")
        if known.size is None:
            raise CheckpointError(
                f"{self.text}/{name}: the server does not say how large the file is, so it cannot "
                "be checked. Download the checkpoint and give the folder."
            )
        return known, known.size

    def _range(self, name: str, begin: int, end: int, known: Info) -> bytes:
        try:
            data = self.fetch(name, begin, end, known)
        except FileNotFoundError:
            raise RemoteError("the file is no longer there") from None
        if len(data) < end - begin:
            raise PassingError(f"the answer ended after {len(data):,} of {end - begin:,} bytes")
        if len(data) > end - begin:
            raise RemoteError("the server does not support range requests: it sent more")
        return data


def attempt(action: Callable[[], Any]) -> Any:
    """The result of a call of fsspec; its failure as one of ours. FileNotFoundError stays."""
    import asyncio  # slow, and most merges read no URL

    try:
        return action()
    except FileNotFoundError:
        raise
    except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
        raise RemoteError(why(error)) from None
    except (OSError, TimeoutError, asyncio.TimeoutError) as error:
        raise PassingError(why(error)) from None
    except Exception as error:  # each file system has its own: no credentials, bad name, ...
        raise RemoteError(why(error)) from None


def why(error: BaseException) -> str:
    """An error's words in one short line without secrets."""
    words = redact_text(" ".join(str(error).split()))
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__
