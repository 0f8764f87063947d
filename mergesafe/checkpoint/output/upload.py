"""Put a finished model behind a URL: weights first, and last what makes the folder loadable.

Object stores have no rename, so a folder cannot appear there in one step. What a loader looks for
(index, configuration, manifest) comes last: an interrupted upload leaves a folder that nothing
takes for a model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any, Final

from mergesafe.checkpoint.format.lora import CONFIG_NAME as ADAPTER_CONFIG_NAME
from mergesafe.checkpoint.format.lora import WEIGHTS_NAME
from mergesafe.checkpoint.format.model import CONFIG_NAME, INDEX_NAME, SINGLE_NAME
from mergesafe.checkpoint.places.file_system import FileSystemStore, attempt, file_system
from mergesafe.checkpoint.places.remote import RemoteError, RemotePath, retried
from mergesafe.errors import OutputError
from mergesafe.references import hub_id, is_url, redact
from mergesafe.untrusted import reason

#: Written last, in this order, and removed first from a folder that is replaced.
LAST: Final = (INDEX_NAME, CONFIG_NAME, ADAPTER_CONFIG_NAME, "mergesafe-manifest.json")
#: Whole weights in one file, of a model and of an adapter.
_WHOLE: Final = (SINGLE_NAME, WEIGHTS_NAME)


def staging_folder(url: str) -> Path:
    """Where the model that goes to ``url`` is made: the same place for the same URL.

    In MERGESAFE_STAGING, else below the user's cache folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    staging = os.environ.get("MERGESAFE_STAGING")
    folder = Path(staging) if staging else cache / "mergesafe" / "staging"
    return folder / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def output_location(url: str) -> RemotePath:
    """The folder ``url`` that a model may be uploaded to, to look at what is there.

    Raises:
        OutputError: no folder can be there.
    """
    target = _Target(url)
    target.fs.invalidate_cache()
    return RemotePath(FileSystemStore(target.fs, target.root, target.text))


def check_upload(
    url: str, *, overwrite: bool, protect: Sequence[str] = (), begun: Path | None = None
) -> None:
    """Check before any work that a model may be uploaded to the folder ``url``, and create it.

    ``protect``: URLs and Hub ids of the inputs, which are not replaced; other text is ignored.
    ``begun``: the model whose upload was begun before, so that files of it may be there.

    Raises:
        OutputError: it cannot be made, has content and ``overwrite`` is off, or is, contains
            or lies inside one of ``protect``.
    """
    target = _Target(url)
    if overwrite and "/" not in target.root.strip("/"):
        raise OutputError(
            f"{target.text}: this is a whole store, and it would be replaced. Give a folder in it."
        )
    for place in protect if overwrite else ():
        if target.overlaps(place):
            raise OutputError(
                f"{target.text}: overwriting it would replace the input {redact(place)}. Give "
                "another output folder."
            )
    if not overwrite and target.listing().keys() - (_files(begun).keys() if begun else ()):
        raise OutputError(
            f"{target.text}: the output folder is not empty. Give another folder, or --overwrite "
            "to replace it."
        )
    target.make()


def upload_folder(local: Path, url: str, overwrite: bool, *, begun: bool = False) -> None:
    """Upload the finished model in ``local`` to the folder ``url``, and check the sizes there.

    With ``overwrite`` what was there is replaced: it stops being a model first, and files that the
    new one does not have are removed at the end. ``local`` stays as it is. ``begun``: an upload of
    it ended early.

    Raises:
        OutputError: the target is refused or the upload failed; names the file and says that the
            model is still in ``local``.
    """
    files = _files(local)
    kept = f"The merged model is complete in {local}"
    try:
        check_upload(url, overwrite=overwrite, begun=local if begun else None)
        target = _Target(url)
        old = target.listing()
        for name in (*LAST, *_WHOLE):
            if name in old:
                target.remove(name)
        for name, path in files.items():
            target.put(path, name)
        for name in sorted(old.keys() - files.keys()):
            if name not in (*LAST, *_WHOLE):
                target.remove(name)
    except OutputError as error:
        raise OutputError(f"{error} {kept}: the same command with --resume uploads it.") from None
    except KeyboardInterrupt as interrupt:
        interrupt.args = (f"interrupted. {kept}: the same command with --resume uploads it",)
        raise


class _Target:
    """A folder in an fsspec file system that is written to."""

    def __init__(self, url: str) -> None:
        self.text = redact(url.rstrip("/"))
        if url.startswith(("http://", "https://")):
            raise OutputError(
                f"{self.text}: web servers do not take folders. Give a local folder or the URL "
                "of a store, such as s3://bucket/folder."
            )
        self.fs, root = file_system(url, OutputError)
        self.root = root.rstrip("/")

    def overlaps(self, place: str) -> bool:
        """Whether the input ``place`` is this folder, in it, or holds it."""
        named = hub_id(place)
        if named is not None:
            place = f"hf://{named[0]}"
        if not is_url(place) or place.startswith(("http://", "https://")):
            return False
        if named is not None and not self.text.startswith("hf://"):
            return False  # does not need the package for hf://
        fs, root = file_system(place.partition("?")[0], OutputError)
        ours, theirs = (f"/{normpath(path.strip('/'))}/" for path in (self.root, root))
        return type(fs) is type(self.fs) and (ours.startswith(theirs) or theirs.startswith(ours))

    def listing(self) -> dict[str, int]:
        """Names and sizes of the files there, at any depth."""
        self.fs.invalidate_cache()
        found = self._do("list", "", self._find)
        return {name.removeprefix(f"{self.root}/"): info["size"] for name, info in found.items()}

    def _find(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        return found

    def make(self) -> None:
        """Create the folder, where the store has any."""
        self._do("create", "", lambda: self.fs.makedirs(self.root, exist_ok=True))

    def put(self, path: Path, name: str) -> None:
        """Upload one file; what is there afterwards has its size."""
        place, size = f"{self.root}/{name}", path.stat().st_size
        folder = place.rpartition("/")[0]
        self._do("create the folder of", name, lambda: self.fs.makedirs(folder, exist_ok=True))
        self._do("upload", name, lambda: self.fs.put_file(str(path), place))
        self.fs.invalidate_cache()
        there = self._do("look at", name, lambda: self.fs.info(place))["size"]
        if there != size:
            raise OutputError(
                f"{self.text}/{name}: {there} bytes are there after the upload, expected {size}. "
                "Something else writes to the folder, or the store lost data."
            )

    def remove(self, name: str) -> None:
        self._do("remove the old", name, lambda: self.fs.rm_file(f"{self.root}/{name}"))

    def _do(self, action: str, name: str, call: Callable[[], Any]) -> Any:
        try:
            return retried(lambda: attempt(call))
        except (RemoteError, FileNotFoundError) as error:
            where = f"{self.text}/{name}" if name else self.text
            raise OutputError(
                f"{where}: could not {action} it ({reason(error)}). Check credentials, permissions "
                "and the connection."
            ) from None


def _files(local: Path) -> dict[str, Path]:
    """The files of a model by name, in the order in which they are uploaded."""
    files = sorted((path for path in local.rglob("*") if path.is_file()), key=_order)
    return {path.relative_to(local).as_posix(): path for path in files}


def _order(path: Path) -> tuple[int, str]:
    if path.name in LAST:
        return 2 + LAST.index(path.name), path.name
    return (0 if path.suffix == ".safetensors" else 1), str(path)
