"""Models behind URLs, through fsspec: ``s3://``, ``gs://``, ``https://``, ``memory://``, ...

Only ranges of files are read. Credentials are those that fsspec and its file systems find
themselves (environment, configuration files); none is taken from the recipe, except what a URL
itself holds.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote

from mergesafe.checkpoint.places.file_system import FileSystemStore, file_system
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.errors import CheckpointError
from mergesafe.references import redact

#: Suffixes of a URL that names one file rather than a folder.
FILE_SUFFIXES: Final = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".pkl", ".ckpt")


def open_url(url: str) -> RemotePath:
    """The location that ``url`` names: a folder, or one file by its suffix.

    Raises:
        CheckpointError: nothing here can read such URLs.
    """
    place, mark, query = url.partition("?")
    place = place.rstrip("/")
    name = ""
    if PurePosixPath(place).suffix.lower() in FILE_SUFFIXES:
        place, _, name = place.rpartition("/")
    fs, root = file_system(place, CheckpointError)
    if place.startswith(("http://", "https://")):
        from mergesafe.checkpoint.places.http import HttpStore

        return RemotePath(HttpStore(fs, root, mark + query), unquote(name))
    return RemotePath(FileSystemStore(fs, root, redact(place)), name)
