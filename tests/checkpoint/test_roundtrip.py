"""Both directions against the safetensors library, and random damage."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file

from mergesafe.checkpoint.format.model import open_checkpoint
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import read_header
from mergesafe.checkpoint.output.folder import OutputFolder, OutputTensor, plan_layout
from mergesafe.errors import CheckpointError

TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32,
    "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64,
}  # fmt: skip
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=12)
names = names.filter(lambda name: name != "__metadata__")
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 5, 17, 64]), max_size=3).map(tuple)
tensors = st.dictionaries(names, st.tuples(st.sampled_from(sorted(TORCH)), shapes), max_size=8)
metadata = st.dictionaries(names, st.text(st.characters(exclude_characters="\0", codec="utf-8")))


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def make(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    high = 2 if dtype == "BOOL" else 256
    probe = torch.empty(shape, dtype=TORCH[dtype])
    content = torch.randint(0, high, (probe.numel() * probe.element_size(),), generator=generator)
    return content.to(torch.uint8).view(TORCH[dtype]).reshape(shape)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=60, deadline=None)
@given(tensors, metadata)
def test_we_read_what_the_library_writes(
    spec: dict[str, tuple[str, tuple[int, ...]]], extra: dict[str, str]
) -> None:
    written = {name: make(*item, seed) for seed, (name, item) in enumerate(spec.items())}
    with folder() as place:
        path = place / "model.safetensors"
        save_file(written, path, extra or None)
        infos, found = read_header(path)
        assert found == extra
        assert infos.keys() == written.keys()
        with Reader() as reader:
            for name, info in infos.items():
                assert (info.dtype, info.shape) == spec[name]
                buffer = bytearray(info.nbytes)
                reader.read_into(info, 0, memoryview(buffer))
                assert buffer == raw(written[name])


@settings(max_examples=60, deadline=None)
@given(tensors.filter(bool), metadata, st.sampled_from([1, 7, 64, 100, 10**6]))
def test_the_library_reads_what_we_write(
    spec: dict[str, tuple[str, tuple[int, ...]]], extra: dict[str, str], limit: int
) -> None:
    written = {name: make(*item, seed) for seed, (name, item) in enumerate(spec.items())}
    outputs = [OutputTensor(name, *item) for name, item in spec.items()]
    layout = plan_layout(outputs, limit, extra)
    with folder() as place:
        with OutputFolder(place / "out", layout, overwrite=False, protect=[]) as out:
            for name, tensor in written.items():
                where = layout.placements[name]
                out.pwrite(where.shard, where.offset, memoryview(raw(tensor)))
            out.commit()
        loaded: dict[str, torch.Tensor] = {}
        for shard in layout.shards:
            loaded |= load_file(place / "out" / shard.name)
            with safe_open(place / "out" / shard.name, "pt") as file:
                assert file.metadata() == {"format": "pt", **extra}
        assert loaded.keys() == written.keys()
        for name, tensor in written.items():
            assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
            assert raw(loaded[name]) == raw(tensor)
        assert open_checkpoint(place / "out").tensors.keys() == written.keys()


def test_the_library_orders_and_pads_as_we_do() -> None:
    spec = [("a", "BF16", (3,)), ("b", "F32", (1,)), ("c", "I64", ()), ("d", "U8", (5,))]
    layout = plan_layout([OutputTensor(*item) for item in spec], 1000, {})
    theirs = save({name: make(dtype, shape, 0) for name, dtype, shape in spec}, {"format": "pt"})
    assert theirs.startswith(layout.shards[0].header)


VALID: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b.weight": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
    "c": {"dtype": "U8", "shape": [0, 4], "data_offsets": [16, 16]},
}
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["F32", "BF16", "U8", "I64", 2**63, 10**30, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def reads_or_refuses(content: bytes) -> None:
    """Only CheckpointError may escape; and nothing is read that the library would refuse."""
    with folder() as place:
        path = place / "m.safetensors"
        path.write_bytes(content)
        try:
            infos, _ = read_header(path)
        except CheckpointError:
            return
        for info in infos.values():
            assert info.offset >= 0
            assert info.offset + info.nbytes <= len(content)
        try:
            with safe_open(path, "pt") as file:
                assert set(file.keys()) == infos.keys()
        except SafetensorError as error:
            raise AssertionError("accepted a file that safetensors refuses") from error


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_values(data: st.DataObject) -> None:
    header = json.loads(json.dumps(VALID))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(VALID)))
        if not isinstance(header.get(name), dict):
            continue
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "format", ""]))
        if field:
            header[name][field] = data.draw(values)
        else:
            header[name] = data.draw(values)
    text = json.dumps(header).encode()
    reads_or_refuses(struct.pack("<Q", len(text)) + text + bytes(16))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_bytes(data: st.DataObject) -> None:
    text = json.dumps(VALID).encode()
    content = bytearray(struct.pack("<Q", len(text)) + text + bytes(16))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["flip", "set", "insert", "delete", "cut"]))
        if action == "flip":
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        elif action == "set":
            content[position] = data.draw(st.integers(0, 255))
        elif action == "insert":
            content[position:position] = data.draw(st.binary(min_size=1, max_size=4))
        elif action == "delete" and len(content) > 1:
            del content[position]
        elif action == "cut":
            del content[max(1, position) :]
    reads_or_refuses(bytes(content))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(content: bytes) -> None:
    reads_or_refuses(content)
    reads_or_refuses(struct.pack("<Q", len(content)) + content)
