"""Every way in which a safetensors header can be wrong, from the bytes that make it so."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from mergesafe.checkpoint.format import safetensors
from mergesafe.checkpoint.format.safetensors import build_header, read_header
from mergesafe.errors import CheckpointError, OutputError

from .helpers import ENTRY, pack, pack_tensors

EIGHT = bytes(8)


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {**ENTRY, **changes}}


def without(field: str) -> dict[str, Any]:
    return {"w": {key: value for key, value in ENTRY.items() if key != field}}


def two(second: list[int], size: int = 16) -> bytes:
    """Tensor "w" at [0, 8] and tensor "x" of 8 bytes at ``second``."""
    return pack({"w": ENTRY, "x": {**ENTRY, "data_offsets": second}}, bytes(size))


BAD = {
    "empty file": (b"", "the file has 0 bytes, expected at least the 8 of a header length"),
    "seven bytes": (bytes(7), "the file has 7 bytes"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "length zero": (pack(b""), "the header length is 0"),
    "length beyond the file": (pack("{}", length=3), "claims 3 bytes but only 2 follow"),
    "length beyond the limit": (pack("{}", length=100_000_001), "the format allows 100,000,000"),
    "length of all ones": (pack("{}", length=2**64 - 1), "claims 18,446,744,073,709,551,615 bytes"),
    "not UTF-8": (pack(b'{"\xff":1}'), "the header is not UTF-8 (bad byte at 2)"),
    "not JSON": (pack('{"w":'), "the header is not valid JSON"),
    "unclosed": (pack("{"), "the header is not valid JSON"),
    "text after the object": (pack("{} x"), "Extra data"),
    "not an object": (pack("[]"), "the header starts with b'['"),
    "leading space": (pack(" {}"), "the header starts with b' '"),
    "nested too deeply": (pack('{"w":' + "[" * 200_000), "nested too deeply"),
    "too many digits": (pack('{"w":' + "9" * 5000 + "}"), "the header is"),
    "duplicate tensor": (
        pack(f'{{"w":{json.dumps(ENTRY)},"w":{json.dumps(ENTRY)}}}', EIGHT),
        "the key 'w' appears twice",
    ),
    "duplicate field": (
        pack('{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT),
        "the key 'dtype' appears twice",
    ),
    "entry not an object": (pack({"w": [1]}), "tensor 'w': its entry is [1], expected an object"),
    "no dtype": (pack(without("dtype"), EIGHT), "its entry lacks dtype"),
    "no shape": (pack(without("shape"), EIGHT), "its entry lacks shape"),
    "no offsets": (pack(without("data_offsets"), EIGHT), "its entry lacks data_offsets"),
    "unknown dtype": (pack(entry(dtype="F31"), EIGHT), "dtype 'F31' is unknown"),
    "lower-case dtype": (pack(entry(dtype="f32"), EIGHT), "dtype 'f32' is unknown"),
    "dtype not text": (pack(entry(dtype=["F32"]), EIGHT), "dtype ['F32'] is unknown"),
    "unsupported dtype F4": (pack(entry(dtype="F4"), EIGHT), "dtype F4 is not supported"),
    "unsupported dtype C64": (pack(entry(dtype="C64"), EIGHT), "dtype C64 is not supported"),
    "unsupported dtype F8_E8M0": (pack(entry(dtype="F8_E8M0"), EIGHT), "dtype F8_E8M0 is not"),
    "shape not a list": (pack(entry(shape=2), EIGHT), "shape is 2, expected a list"),
    "negative dimension": (pack(entry(shape=[-2]), EIGHT), "shape is [-2]"),
    "fractional dimension": (pack(entry(shape=[2.0]), EIGHT), "shape is [2.0]"),
    "boolean dimension": (pack(entry(shape=[2, True]), EIGHT), "shape is [2, True]"),
    "text dimension": (pack(entry(shape=["2"]), EIGHT), "shape is ['2']"),
    "absurd dimension": (pack(entry(shape=[10**300]), EIGHT), "expected a list of non-negative"),
    "product overflow": (pack(entry(shape=[2**40, 2**40]), EIGHT), "overflows 63 bits"),
    "overflow hidden by a zero": (pack(entry(shape=[2**40, 2**40, 0])), "overflows 63 bits"),
    "offsets not a list": (pack(entry(data_offsets="08"), EIGHT), "data_offsets is '08'"),
    "three offsets": (pack(entry(data_offsets=[0, 4, 8]), EIGHT), "data_offsets is [0, 4, 8]"),
    "fractional offset": (pack(entry(data_offsets=[0, 8.0]), EIGHT), "data_offsets is [0, 8.0]"),
    "boolean offset": (pack(entry(data_offsets=[False, 8]), EIGHT), "data_offsets is [False, 8]"),
    "negative offset": (pack(entry(data_offsets=[-8, 0]), EIGHT), "data_offsets is [-8, 0]"),
    "absurd offset": (pack(entry(data_offsets=[0, 10**30]), EIGHT), "two non-negative integers"),
    "begin after end": (pack(entry(data_offsets=[8, 0]), EIGHT), "begin at 8, after their end 0"),
    "span too short": (pack(entry(data_offsets=[0, 7]), bytes(7)), "span 7 bytes, but shape [2]"),
    "span too long": (pack(entry(data_offsets=[0, 9]), bytes(9)), "span 9 bytes, but shape [2]"),
    "overlap": (two([4, 12], 12), "tensor 'x' begins at byte"),
    "overlap by a byte": (two([7, 15], 15), "and overlaps tensor 'w', which ends at"),
    "same place": (two([0, 8], 8), "and overlaps tensor 'w'"),
    "gap": (two([12, 20], 20), "leaving a gap of 4 bytes after tensor 'w'"),
    "gap at the start": (pack(entry(data_offsets=[1, 9]), bytes(9)), "a gap of 1 bytes after the"),
    "truncated data": (pack(entry(), bytes(7)), "the file has only"),
    "trailing byte": (pack(entry(), bytes(9)), "1 bytes follow tensor 'w'"),
    "trailing data without tensors": (pack("{}", b"x"), "1 bytes follow the header"),
    "metadata not an object": (pack({"__metadata__": "pt"}), "__metadata__ is 'pt'"),
    "metadata value not text": (pack({"__metadata__": {"a": 1}}), "maps 'a' to 1"),
    "metadata with NUL": (pack({"__metadata__": {"a": "\0"}}), "expected text to text"),
    "empty name": (pack({"": ENTRY}, EIGHT), "the tensor name '' is empty"),
    "name with NUL": (pack({"w\0": ENTRY}, EIGHT), "the tensor name 'w\\x00'"),
    "half a surrogate": (pack({"\ud800": ENTRY}, EIGHT), "the tensor name '\\ud800'"),
    "infinite dimension": (pack(entry(shape=[float("inf")]), EIGHT), "Infinity is not JSON"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_file_has_its_own_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < 700
    assert time.process_time() - started < 1


def test_a_list_of_absurd_dimensions_is_cheap(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(pack(entry(shape=[2**62] * 200_000)))
    started = time.process_time()
    with pytest.raises(CheckpointError, match="overflows"):
        read_header(path)
    assert time.process_time() - started < 2


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_header(tmp_path / "none.safetensors")


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    with pytest.raises(CheckpointError, match="symbolic link to a missing file"):
        read_header(tmp_path / "link")


def test_folder_and_pipe_are_not_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this is a folder"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    with pytest.raises(CheckpointError, match="device, pipe or socket"):
        read_header(tmp_path / "pipe")


def test_a_file_that_shrinks_between_stat_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack("{}", length=50))
    monkeypatch.setattr(safetensors, "_check_length", lambda path, prefix, size: 50)
    with pytest.raises(CheckpointError, match="ends after 2 of 50 bytes"):
        read_header(path)


def test_tensors_come_in_offset_order_with_absolute_offsets(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "late": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [4, 8]},
        "early": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "none": {"dtype": "I64", "shape": [3, 0], "data_offsets": [4, 4]},
    }
    content = pack(header, b"abcdefgh")
    path.write_bytes(content)
    tensors, metadata = read_header(path)
    assert metadata == {"format": "pt"}
    assert list(tensors) == ["early", "none", "late"]
    early, none, late = tensors.values()
    assert (early.shape, early.numel, early.nbytes) == ((), 1, 4)
    assert (none.shape, none.numel, none.nbytes) == ((3, 0), 0, 0)
    assert (late.shape, late.numel, late.nbytes) == ((2, 1), 2, 4)
    assert content[late.offset : late.offset + late.nbytes] == b"efgh"


def test_no_tensors_is_a_valid_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack("{}      "))
    assert read_header(path) == ({}, {})


@pytest.mark.parametrize("changed", [{"__metadata__": None}, {"w": ENTRY | {"stride": [1]}}])
def test_what_the_safetensors_library_reads_is_read(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack({"w": ENTRY} | changed, EIGHT))
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["w"]
    tensors, metadata = read_header(path)
    assert (list(tensors), metadata) == (["w"], {})


def test_names_may_be_any_text(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack_tensors({"größe\n\U0001f600": ("U8", [1], b"x")}))
    assert list(read_header(path)[0]) == ["größe\n\U0001f600"]


def test_build_header_bytes() -> None:
    header = build_header([("a", "U8", (3,), 3), ("b", "F16", (), 2)], {"format": "pt"})
    text = (
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},'
        b'"b":{"dtype":"F16","shape":[],"data_offsets":[3,5]}}'
    )
    padded = text + b" " * (-len(text) % 8)
    assert header == struct.pack("<Q", len(padded)) + padded
    assert len(header) % 8 == 0


def test_build_header_without_metadata_or_tensors() -> None:
    assert build_header([], {}) == struct.pack("<Q", 8) + b"{}      "


def test_build_header_refuses_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "HEADER_LIMIT", 100)
    with pytest.raises(OutputError, match="the format allows 100"):
        build_header([], {"recipe": "x" * 100})


def test_importing_is_light() -> None:
    script = (
        "import sys\n"
        "from mergesafe.checkpoint.format import lora, model, reader, safetensors\n"
        "from mergesafe.checkpoint.output import card, companions, folder\n"
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
