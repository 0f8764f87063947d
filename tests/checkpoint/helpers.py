"""Build safetensors files byte by byte, good and bad."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from mergesafe.checkpoint.output import OutputLayout, OutputTensor, plan_layout

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
