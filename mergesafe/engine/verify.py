"""Check a merged model against its manifest: every tensor, header and companion file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint._parse import show
from mergesafe.checkpoint.digest import ALGORITHM, BLOCK, add, digest_of, text
from mergesafe.checkpoint.location import open_regular, read_json_file
from mergesafe.checkpoint.model import open_checkpoint
from mergesafe.checkpoint.reader import Reader
from mergesafe.checkpoint.safetensors import HEADER_LIMIT, TensorInfo
from mergesafe.engine.manifest import FORMAT, MANIFEST_NAME
from mergesafe.errors import CheckpointError, MergesafeError

#: Bytes read at a time by each thread.
_PIECE: Final = 512 * BLOCK
#: Manifests larger than this are not read: 100 MB hold about 200,000 tensors.
_LIMIT: Final = HEADER_LIMIT
_SHOWN: Final = 5


class VerificationError(MergesafeError):
    """The model is not what its manifest says (exit status 3)."""

    exit_status = 3


@dataclass(frozen=True)
class Verified:
    """What was found to be as the merge wrote it."""

    path: Path
    tensors: int
    files: int
    bytes_read: int


def verify(out: str | Path, *, threads: int) -> Verified:
    """Read every byte of the model in ``out`` and compare it with its manifest.

    Raises:
        CheckpointError: there is no manifest, or it or the checkpoint cannot be read.
        VerificationError: something differs; the message names it.
    """
    folder = Path(out)
    manifest = _manifest(folder)
    checkpoint = open_checkpoint(folder)
    problems = [*_files(folder, manifest["files_sha256"]), *_headers(folder, manifest["shards"])]
    tensors = manifest["tensors"]
    for name in sorted(tensors.keys() - checkpoint.tensors.keys()):
        problems.append(f"tensor {show(name)} is missing")
    for name in sorted(checkpoint.tensors.keys() - tensors.keys()):
        problems.append(f"tensor {show(name)} is not in the manifest")
    present = [info for name, info in checkpoint.tensors.items() if name in tensors]
    with Reader() as reader, ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda info: _digest(reader, info), present)
        for info, digest in zip(present, found, strict=True):
            expected = tensors[info.name]["digest"]
            if digest != expected:
                problems.append(
                    f"tensor {show(info.name)} in {info.path.name} has the digest {digest}, "
                    f"expected {show(expected)}"
                )
    if problems:
        raise VerificationError(_message(folder, problems))
    return Verified(
        folder, len(present), len(manifest["files_sha256"]), sum(info.nbytes for info in present)
    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_NAME
    manifest = read_json_file(path, _LIMIT)
    if manifest.get("format") != FORMAT or manifest.get("digest") != ALGORITHM:
        raise CheckpointError(
            f"{path}: format {show(manifest.get('format'))} with the digest "
            f"{show(manifest.get('digest'))}; this version knows format {FORMAT} with {ALGORITHM}. "
            "Use the version of mergesafe that wrote it."
        )
    for key in ("files_sha256", "shards", "tensors"):
        value = manifest.get(key)
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: {key} is {show(value)}, expected an object.")
    for key, field in (("shards", "header_sha256"), ("tensors", "digest")):
        for name, entry in manifest[key].items():
            if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
                raise CheckpointError(f"{path}: {key}: {show(name)} lacks the text {field}.")
    return manifest


def _files(folder: Path, expected: dict[str, Any]) -> Iterator[str]:
    for name, digest in expected.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            yield f"the manifest names the file {show(name)} outside the folder"
        elif not path.is_file():
            yield f"the file {show(name)} is missing"
        else:
            with open_regular(path) as file:
                if hashlib.sha256(file.read()).hexdigest() != digest:
                    yield f"the file {show(name)} has changed"


def _headers(folder: Path, expected: dict[str, Any]) -> Iterator[str]:
    for name, entry in expected.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            yield f"the shard {show(name)} is missing"
            continue
        with open_regular(path) as file:
            prefix = file.read(8)
            header = prefix + file.read(min(int.from_bytes(prefix, "little"), HEADER_LIMIT))
        if hashlib.sha256(header).hexdigest() != entry["header_sha256"]:
            yield f"the header of {show(name)} has changed"


def _digest(reader: Reader, info: TensorInfo) -> str:
    total = 0
    piece = bytearray(min(_PIECE, info.nbytes))
    for begin in range(0, info.nbytes, _PIECE):
        view = memoryview(piece)[: min(_PIECE, info.nbytes - begin)]
        reader.read_into(info, begin, view)
        total = add(total, digest_of(view, begin // BLOCK))
    return text(total)


def _message(folder: Path, problems: list[str]) -> str:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return (
        f"{folder}: this is not what the merge wrote: {'; '.join(problems[:_SHOWN])}{more}. "
        "Restore the files, or merge again from the recipe in the manifest."
    )
