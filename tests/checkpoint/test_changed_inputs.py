"""Shards that are written to or replaced after their headers were read: an error, no mixture."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import leftovers, llama, recipe, save, write_recipe

import mergesafe
from mergesafe.checkpoint.format import safetensors
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo, read_header
from mergesafe.checkpoint.places.seen import Change, FileState
from mergesafe.errors import ChangedInputError

from .helpers import pack_tensors

HALF = 100_000


def content(first: bytes, second: bytes, name: str = "b") -> bytes:
    return pack_tensors({"a": ("U8", [HALF], first * HALF), name: ("U8", [HALF], second * HALF)})


@pytest.fixture
def info(tmp_path: Path) -> TensorInfo:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content(b"1", b"2"))
    time.sleep(0.01)  # clocks of file systems tick every few milliseconds
    return read_header(path)[0]["a"]


def keeping_times(path: Path, act: Callable[[Path], None]) -> None:
    before = path.stat()
    act(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(content(b"3", b"4"))


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(content(b"3", b"4"))
    path.with_name("new").replace(path)


def moved_tensors(path: Path) -> None:
    """Another header, covered by a change of permissions."""
    keeping_times(path, lambda path: path.write_bytes(content(b"3", b"4", "c")) and None)
    path.chmod(0o600)


CHANGES: dict[str, Callable[[Path], None]] = {
    "rewritten": rewrite,
    "replaced": replace,
    "rewritten, its time set back": lambda path: keeping_times(path, rewrite),
    "replaced, its time set back": lambda path: keeping_times(path, replace),
    "another header": moved_tensors,
}


def read(info: TensorInfo, reader: Reader) -> bytes:
    buffer = bytearray(info.nbytes)
    reader.read_into(info, 0, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("change", CHANGES)
def test_before_the_first_read(info: TensorInfo, change: str) -> None:
    assert isinstance(info.path, Path)
    CHANGES[change](info.path)
    with Reader() as reader, pytest.raises(ChangedInputError, match="after its header was read"):
        read(info, reader)


def test_of_two_headers_both_are_compared(info: TensorInfo) -> None:
    """A model may be named twice, and be written to in between."""
    assert isinstance(info.path, Path)
    rewrite(info.path)
    later = read_header(info.path)[0]["a"]
    with Reader() as reader:
        assert read(later, reader) == b"3" * HALF
        with pytest.raises(ChangedInputError):
            read(info, reader)


@pytest.mark.parametrize("change", ["rewritten", "rewritten, its time set back"])
def test_while_it_is_read(info: TensorInfo, change: str) -> None:
    assert isinstance(info.path, Path)
    with Reader() as reader:
        read(info, reader)
        CHANGES[change](info.path)
        with pytest.raises(ChangedInputError, match="written to while it was read"):
            reader.check_unchanged()


def new_name(path: Path) -> None:
    os.link(path, path.with_name("backup"))


HARMLESS: dict[str, Callable[[Path], None]] = {
    "permissions": lambda path: path.chmod(0o600),
    "another name": new_name,
    "read by others": lambda path: path.read_bytes() and None,
}


@pytest.mark.parametrize("change", HARMLESS)
def test_what_leaves_the_content_alone_is_fine(info: TensorInfo, change: str) -> None:
    assert isinstance(info.path, Path)
    time.sleep(0.01)
    HARMLESS[change](info.path)
    with Reader() as reader:
        assert read(info, reader) == b"1" * HALF
    with Reader() as reader:
        read(info, reader)
        info.path.chmod(0o640)
        reader.check_unchanged()


def test_removed_and_replaced_while_open_is_fine(info: TensorInfo) -> None:
    assert isinstance(info.path, Path)
    with Reader() as reader:
        read(info, reader)
        replace(info.path)
        assert read(info, reader) == b"1" * HALF
        reader.check_unchanged()


def test_file_systems_that_number_files_anew(tmp_path: Path) -> None:
    """As some in user space: the header is compared then."""
    (tmp_path / "x").write_bytes(b"")
    state = FileState.of((tmp_path / "x").stat())
    other = FileState(state.size, state.mtime_ns, state.ctime_ns, (1, 2), state.label)
    assert state.until(state) is Change.NONE
    assert state.until(other) is Change.LABEL


def test_while_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "m.safetensors", safetensors._read
    path.write_bytes(content(b"1", b"2"))
    time.sleep(0.01)

    def writing(file: safetensors.OpenFile, begin: int, count: int) -> bytes:
        rewrite(path)
        return real(file, begin, count)

    monkeypatch.setattr(safetensors, "_read", writing)
    with pytest.raises(ChangedInputError, match="while its header was read"):
        read_header(path)


@pytest.fixture
def merging(tmp_path: Path) -> Path:
    for number, name in enumerate(("base", "a", "b")):
        save(tmp_path / name, llama(number))
    time.sleep(0.01)
    content = recipe("ties", ["a", "b"], "base", each={"weight": 0.5, "density": 0.5})
    return write_recipe(tmp_path / "r.yml", content)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_between_plan_and_merge(merging: Path, tmp_path: Path, how: str, back: bool) -> None:
    """The model that was planned is another one by the time it is merged."""
    shard = tmp_path / "a" / "model.safetensors"
    save(tmp_path / "other", llama(9))

    def other(path: Path) -> None:
        source = tmp_path / "other" / "model.safetensors"
        if how == "replaced":
            shutil.copy(source, path.with_name("new"))
            path.with_name("new").replace(path)
        else:
            path.write_bytes(source.read_bytes())

    def progress(made: object, planned: object) -> Callable[[int], None]:
        keeping_times(shard, other) if back else other(shard)
        return lambda count: None

    with pytest.raises(ChangedInputError, match=r"a/model\.safetensors: .*header was read"):
        mergesafe.merge(merging, tmp_path / "out", progress=progress)
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []
