"""Check a merged model against its manifest: every tensor, header and companion file.

The card may have been written anew by ``mergesafe card``: see :mod:`mergesafe.engine.evidence`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.format.digest import ALGORITHM, digest_of_tensor, text
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import HEADER_LIMIT, TensorInfo, header_of
from mergesafe.checkpoint.output.companions import TEMPLATE_FOLDER
from mergesafe.checkpoint.places.location import at, open_regular, read_json_file
from mergesafe.engine.evidence import EVIDENCE_NAME, check_evidence, read_evidence
from mergesafe.engine.manifest import FORMAT, MANIFEST_NAME
from mergesafe.errors import CheckpointError, MergesafeError, UnreadableError
from mergesafe.untrusted import reason, show

#: Manifests larger than this are not read: 100 MB hold about 200,000 tensors.
_LIMIT: Final = HEADER_LIMIT
_SHOWN: Final = 5
_PIECE: Final = 1 << 20
#: Suffixes of what transformers and other loaders look for in a model's folder.
_LOADED: Final = frozenset(
    (".json", ".jinja", ".py", ".safetensors", ".bin", ".model", ".txt", ".tiktoken", ".pt",
     ".pth", ".gguf")
)  # fmt: skip


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
        CheckpointError: there is no manifest, or it cannot be read.
        VerificationError: something differs; the message names it.
    """
    folder = Path(out)
    manifest = _manifest(folder)
    tensors = manifest["tensors"]
    problems: list[str] = []
    evidence = read_evidence(folder)
    if evidence is not None:
        written = (folder / MANIFEST_NAME).read_bytes()
        problems += check_evidence(evidence, written, manifest["files_sha256"])
    problems += [*_files(folder, manifest["files_sha256"]), *_unknown(folder, manifest)]
    present = list(_tensors(folder, manifest, problems))
    with Reader() as reader, ThreadPoolExecutor(threads) as pool:
        digests = pool.map(lambda info: text(digest_of_tensor(reader, info)), present)
        for info, digest in zip(present, digests, strict=True):
            wanted = tensors[info.name]["digest"]
            if digest != wanted:
                problems.append(
                    f"tensor {show(info.name)} in {info.path.name} has the digest {digest}, "
                    f"expected {show(wanted)}"
                )
    if problems:
        raise VerificationError(_message(folder, problems))
    return Verified(
        folder, len(present), len(manifest["files_sha256"]), sum(info.nbytes for info in present)
    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_NAME
    if not at(path).exists():
        if not at(folder).is_dir():
            raise CheckpointError(f"{folder}: no such folder. Check the path.")
        raise CheckpointError(
            f"{folder} was not written by mergesafe, or its {MANIFEST_NAME} is gone; there is no "
            "manifest to compare with. Name the folder that a merge wrote."
        )
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
        elif not _is_file(path):
            yield f"the file {show(name)} is missing"
        elif _sha256(path) not in (digest if isinstance(digest, tuple) else (digest,)):
            yield f"the file {show(name)} has changed"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        try:
            while piece := file.read(_PIECE):
                digest.update(piece)
        except OSError as error:
            raise UnreadableError(f"{path}: cannot read ({reason(error)}).") from error
    return digest.hexdigest()


def _is_file(path: Path) -> bool:
    """Whether a regular file lies there; what is no name of a file is none."""
    return at(path).exists() and not at(path).is_dir() and path.is_file()


def _unknown(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Files that the merge did not write and that a loader may take for part of the model."""
    known = {MANIFEST_NAME, EVIDENCE_NAME, *manifest["shards"], *manifest["files_sha256"]}
    for place in (folder, folder / TEMPLATE_FOLDER):
        for path in sorted(place / name for name in _names(place)):
            name = path.relative_to(folder).as_posix()
            if name not in known and path.suffix.lower() in _LOADED and not at(path).is_dir():
                yield f"the file {show(name)} is not of the merge"


def _names(folder: Path) -> list[str]:
    return (at(folder).names() or []) if at(folder).is_dir() else []


def _tensors(folder: Path, manifest: dict[str, Any], problems: list[str]) -> Iterator[TensorInfo]:
    """Every tensor that is where the manifest says; all else is added to ``problems``."""
    expected: dict[str, set[str]] = {shard: set() for shard in manifest["shards"]}
    for name, entry in manifest["tensors"].items():
        try:
            expected[entry["file"]].add(name)
        except (KeyError, TypeError):
            problems.append(f"the manifest names no shard for tensor {show(name)}")
    for shard, entry in manifest["shards"].items():
        try:
            found = _shard(folder, shard, entry["header_sha256"], problems)
        except UnreadableError:
            raise
        except CheckpointError as error:
            problems.append(str(error).rstrip("."))
            continue
        names = expected[shard]
        for name in sorted(names - found.keys()):
            problems.append(f"tensor {show(name)} is missing in {show(shard)}")
        for name in sorted(found.keys() - names):
            problems.append(f"tensor {show(name)} in {show(shard)} is not in the manifest")
        yield from (info for name, info in found.items() if name in names)


def _shard(
    folder: Path, name: str, header_sha256: str, problems: list[str]
) -> dict[str, TensorInfo]:
    """The tensors of a shard; adds to ``problems`` when its header is another one.

    Raises:
        CheckpointError: it is missing or no whole safetensors file.
    """
    path = folder / name
    if Path(name).name != name:
        raise CheckpointError(f"the manifest names the shard {show(name)} outside the folder")
    if not _is_file(path):
        raise CheckpointError(f"the shard {show(name)} is missing")
    header = header_of(path)
    if header.seen.header_sha256 != header_sha256:
        problems.append(f"the header of {show(name)} has changed")
    return header.tensors


def _message(folder: Path, problems: list[str]) -> str:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return (
        f"{folder}: this is not what the merge wrote: {'; '.join(problems[:_SHOWN])}{more}. "
        "Restore the files, or merge again from the recipe in the manifest."
    )
