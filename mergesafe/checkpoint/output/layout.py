"""Decide where every output tensor goes, before a byte is written.

Tensors fill shards in the given order. Within a shard those with larger elements come first, so
that every tensor is aligned to its element size, as the safetensors library does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from mergesafe.checkpoint.format.model import SINGLE_NAME
from mergesafe.checkpoint.format.safetensors import build_header
from mergesafe.dtypes import SIZES
from mergesafe.errors import ArgumentError
from mergesafe.untrusted import is_text, show


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to be written; ``dtype`` is a safetensors name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar (shape ``()``)."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.numel * SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a tensor's data begins: shard number and absolute byte offset in that file."""

    shard: int
    offset: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One output file: its name, its first bytes, and its size including them."""

    name: str
    header: bytes
    size: int


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Every shard and where every tensor lies in them.

    ``total_size`` counts tensor data only (what Hugging Face calls total_size);
    ``file_bytes`` counts whole shards. ``index`` is the content of
    ``model.safetensors.index.json``, or None when a single file needs none.
    """

    shards: tuple[ShardFile, ...]
    placements: dict[str, Placement]
    total_size: int
    index: str | None

    @property
    def file_bytes(self) -> int:
        """Size of all shards together, headers included."""
        return sum(shard.size for shard in self.shards)


def plan_layout(
    tensors: Sequence[OutputTensor],
    max_shard_size: int,
    metadata: dict[str, str],
    *,
    single: str = SINGLE_NAME,
) -> OutputLayout:
    """Distribute ``tensors`` over shards with at most ``max_shard_size`` bytes of data each.

    ``single``: the file's name where there is one. A tensor larger than that has a shard of its
    own. Every shard's ``__metadata__`` is ``{"format": "pt"}``, which transformers insists on,
    updated with ``metadata``.

    Raises:
        ArgumentError: no tensors, an invalid or repeated name, an unknown dtype, a negative
            dimension, a size below 1, or metadata that is not text.
    """
    _check(tensors, max_shard_size, metadata)
    groups = _fill(tensors, max_shard_size)
    metadata = {"format": "pt", **metadata}
    shards: list[ShardFile] = []
    placements: dict[str, Placement] = {}
    for number, group in enumerate(groups):
        group.sort(key=lambda tensor: -SIZES[tensor.dtype])
        entries = [(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) for tensor in group]
        header = build_header(entries, metadata)
        end = len(header)
        for name, _, _, nbytes in entries:
            placements[name] = Placement(number, end)
            end += nbytes
        shards.append(ShardFile(_file_name(number, len(groups), single), header, end))
    total = sum(tensor.nbytes for tensor in tensors)
    index = _index(tensors, shards, placements, total) if len(shards) > 1 else None
    return OutputLayout(tuple(shards), placements, total, index)


def _check(tensors: Sequence[OutputTensor], max_shard_size: int, metadata: dict[str, str]) -> None:
    if not tensors:
        raise ArgumentError("there are no tensors to write")
    if max_shard_size < 1:
        raise ArgumentError(f"max_shard_size is {max_shard_size}, expected at least 1 byte")
    if not all(is_text(key) and is_text(value) for key, value in metadata.items()):
        raise ArgumentError("metadata must map text to text (no NUL)")
    seen: set[str] = set()
    for tensor in tensors:
        if not tensor.name or tensor.name == "__metadata__" or not is_text(tensor.name):
            raise ArgumentError(f"{show(tensor.name)} cannot be the name of an output tensor")
        if tensor.name in seen:
            raise ArgumentError(f"output tensor {show(tensor.name)} is given twice")
        if tensor.dtype not in SIZES:
            raise ArgumentError(
                f"output tensor {show(tensor.name)}: unknown dtype {show(tensor.dtype)} "
                f"(known: {', '.join(SIZES)})"
            )
        if any(dimension < 0 for dimension in tensor.shape):
            raise ArgumentError(f"output tensor {show(tensor.name)}: negative shape {tensor.shape}")
        seen.add(tensor.name)


def _fill(tensors: Sequence[OutputTensor], max_shard_size: int) -> list[list[OutputTensor]]:
    groups: list[list[OutputTensor]] = [[]]
    used = 0
    for tensor in tensors:
        if groups[-1] and used + tensor.nbytes > max_shard_size:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += tensor.nbytes
    return groups


def _file_name(number: int, count: int, single: str) -> str:
    if count == 1:
        return single
    return f"model-{number + 1:05}-of-{count:05}.safetensors"


def _index(
    tensors: Sequence[OutputTensor],
    shards: Sequence[ShardFile],
    placements: dict[str, Placement],
    total: int,
) -> str:
    index: dict[str, Any] = {
        "metadata": {
            "total_parameters": sum(tensor.numel for tensor in tensors),
            "total_size": total,
        },
        "weight_map": {name: shards[place.shard].name for name, place in placements.items()},
    }
    return json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
