"""Build safetensors files byte by byte, good and bad, and small output folders."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fsspec.implementations.memory import MemoryFileSystem

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.output.folder import OutputFolder, OutputLayout, OutputTensor, plan_layout
from mergesafe.checkpoint.views.view import Room, View

#: One tensor "w": two F32 elements, eight bytes of data.
ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def pack(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file: ``header`` is JSON text, bytes or a value to dump."""
    if isinstance(header, str):
        header = header.encode()
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def pack_tensors(tensors: dict[str, tuple[str, list[int], bytes]], **metadata: str) -> bytes:
    """A valid file with these tensors: name -> (dtype, shape, data)."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        begin, data = len(data), data + content
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, len(data)]}
    return pack(header, data)


def write_model(folder: Path, *names: str, file: str = "model.safetensors") -> Path:
    """A shard with one U8 scalar for each name; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_bytes(pack_tensors({name: ("U8", [], b"\x07") for name in names}))
    return path


def write_index(folder: Path, weight_map: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def small_layout(max_shard_size: int = 1 << 20) -> OutputLayout:
    """Two tensors of eight bytes, "a" and "b"."""
    tensors = [OutputTensor("a", "BF16", (2, 2)), OutputTensor("b", "F32", (2,))]
    return plan_layout(tensors, max_shard_size, {})


#: The data of the tensors of small_layout, and the names of its two shards.
A, B = b"aaaaAAAA", b"bbbbBBBB"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def new(
    path: Path, *, overwrite: bool = False, limit: int = 8, protect: tuple[Path, ...] = ()
) -> OutputFolder:
    """An output folder that is not entered yet."""
    return OutputFolder(path, small_layout(limit), overwrite=overwrite, protect=protect)


def fill(folder: OutputFolder) -> None:
    for name, data in (("a", A), ("b", B)):
        place = folder.layout.placements[name]
        folder.pwrite(place.shard, place.offset, memoryview(data))


def write(path: Path, *, overwrite: bool = False, protect: tuple[Path, ...] = ()) -> None:
    with new(path, overwrite=overwrite, protect=protect) as folder:
        fill(folder)
        folder.commit()


def old_output(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "old.txt").write_text("old")
    return path


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def failing(code: int) -> Callable[..., int]:
    """A system call that fails with the error number ``code``."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


def forget(fs: MemoryFileSystem) -> None:
    """Empty fsspec's memory file system, which all of a process share."""
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def values_of(view: View, dtype: torch.dtype, tile: int) -> torch.Tensor:
    """All elements, read ``tile`` at a time."""
    found = b""
    with Reader() as reader:
        opened = view.open(Room(reader, tile))
        for at in range(0, view.numel, tile):
            n = min(tile, view.numel - at)
            opened.fetch(at, n)
            found += bytes(opened.make(at, n)[1])
    return torch.frombuffer(bytearray(found), dtype=dtype).view(view.shape)
