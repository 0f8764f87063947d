"""Checkpoints behind URLs: ranges alone are read, and whatever a server does wrong has a name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from web import Web, serve

from mergesafe.checkpoint.format.model import Checkpoint, open_checkpoint
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.places import remote
from mergesafe.checkpoint.places.location import at, read_json_file, same_content
from mergesafe.checkpoint.places.remote_cache import BLOCK
from mergesafe.checkpoint.places.url import open_url
from mergesafe.errors import CheckpointError

from .helpers import forget, pack_tensors, write_index, write_model

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "DELAYS", (0.0, 0.0, 0.0))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder = tmp_path / "www" / "model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(
        pack_tensors({"first": ("U8", [3], b"abc"), "w": ("U8", [len(CONTENT)], CONTENT)})
    )
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with serve(Web(tmp_path / "www")) as web:
        yield web


def opened(web: Web, path: str = "model") -> Checkpoint:
    return open_checkpoint(open_url(f"{web.url}/{path}"))


def read(checkpoint: Checkpoint, begin: int = 0, count: int = len(CONTENT)) -> bytes:
    buffer = bytearray(count)
    with Reader() as reader:
        reader.read_into(checkpoint.tensors["w"], begin, memoryview(buffer))
        reader.check_unchanged()
    return bytes(buffer)


def fails(web: Web, words: str, path: str = "model") -> str:
    with pytest.raises(CheckpointError) as caught:
        read(opened(web, path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_headers_cost_their_own_bytes(web: Web) -> None:
    checkpoint = opened(web)
    assert list(checkpoint.tensors) == ["first", "w"]
    assert checkpoint.config == {"model_type": "llama"}
    assert str(checkpoint.path) == f"{web.url}/model"
    assert str(checkpoint.shards[0]) == f"{web.url}/model/model.safetensors"
    # One byte asks for the file's size, eight hold the header's length.
    assert web.sent["model.safetensors"] == 1 + checkpoint.tensors["first"].offset


@pytest.mark.parametrize("begin", [0, 1, 4095, len(CONTENT) - 1])
def test_reads_the_range(web: Web, begin: int) -> None:
    count = min(100, len(CONTENT) - begin)
    assert read(opened(web), begin, count) == CONTENT[begin : begin + count]


def test_one_file_is_weights_alone(web: Web) -> None:
    checkpoint = opened(web, "model/model.safetensors")
    assert checkpoint.config == {}
    assert read(checkpoint) == CONTENT
    assert {path for path, _ in web.asked} == {"/model/model.safetensors"}


def test_shards_are_opened_in_natural_order(web: Web) -> None:
    folder = web.folder / "sharded"
    names = {f"t{n}": f"part-{n}.safetensors" for n in (10, 9, 1)}
    for name, file in names.items():
        write_model(folder, name, file=file)
    write_index(folder, names)
    assert list(opened(web, "sharded").tensors) == ["t1", "t9", "t10"]


def test_missing_shard(web: Web) -> None:
    write_index(web.folder / "model", {"a": "b.safetensors"})
    (web.folder / "model" / "model.safetensors").unlink()
    fails(web, "the shard 'b.safetensors' is not in the folder")


def test_nothing_there(web: Web) -> None:
    fails(web, f"{web.url}/none: no checkpoint in this folder: expected model.safetensors", "none")
    fails(web, "no such file or folder", "none/a.safetensors")


def test_pickle_by_url(web: Web) -> None:
    (web.folder / "a.bin").write_bytes(b"\x80")
    fails(web, "this is a pickle", "a.bin")


def test_names_are_quoted_and_the_query_is_sent_but_not_shown(web: Web) -> None:
    folder = web.folder / "a b%"
    write_model(folder, "w", file="x y#.safetensors")
    write_index(folder, {"w": "x y#.safetensors"})
    checkpoint = opened(web, "a%20b%25?signature=secret")
    assert web.asked
    assert all(path.endswith("?signature=secret") for path, _ in web.asked)
    assert "secret" not in str(checkpoint.shards[0])


def test_password_is_used_but_not_shown(web: Web) -> None:
    web.url = web.url.replace("http://", "http://me:secret@")
    (web.folder / "model" / "config.json").unlink()
    web.faults["model.safetensors"] = [403]
    error = fails(web, "HTTP 403 Forbidden")
    assert "secret" not in error
    assert "//***@" in error
    assert web.headers[0]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("fault", [500, 503, 429, 0])
def test_passing_failures_are_tried_again(web: Web, fault: int) -> None:
    checkpoint = opened(web)
    web.faults["model.safetensors"] = [None, fault, fault]  # the first asks for the size
    assert read(checkpoint) == CONTENT
    assert web.faults["model.safetensors"] == []


def test_lasting_failure_names_url_tensor_and_bytes(web: Web) -> None:
    checkpoint = opened(web)
    web.faults["model.safetensors"] = [None, *[500] * 4]
    with Reader() as reader, pytest.raises(CheckpointError) as caught:
        reader.read_into(checkpoint.tensors["w"], 0, memoryview(bytearray(20)))
    assert str(caught.value) == (
        f"{web.url}/model/model.safetensors: tensor 'w': expected 20 bytes, got 0 (HTTP 500 "
        "Internal Server Error; gave up after 4 tries). Check the connection and the server, and "
        "run again."
    )


def test_cut_off_answers(web: Web) -> None:
    web.faults["config.json"] = [None, *[0] * 4]
    fails(web, "config.json: cannot read (the answer was cut off; gave up after 4 tries)")


def test_server_without_ranges(web: Web) -> None:
    web.ranges = False
    fails(web, "model.safetensors: cannot read the header (the server does not support range req")
    (web.folder / "model" / "model.safetensors").write_bytes(bytes(100_000_000))
    web.sent.clear()
    fails(web, "does not support range requests")
    # A whole shard is not taken in: what was sent is what the sockets' buffers held.
    assert web.sent["model.safetensors"] < 50_000_000
    # A small file is taken whole.
    config = open_url(f"{web.url}/model") / "config.json"
    assert read_json_file(config, 1000) == {"model_type": "llama"}


def test_unreachable_server(web: Web) -> None:
    web.url = "http://127.0.0.1:9"
    fails(web, "gave up after 4 tries")


@pytest.mark.parametrize("etags", [True, False])
def test_replaced_between_plan_and_merge(web: Web, etags: bool) -> None:
    web.etags = etags
    checkpoint = opened(web)
    shard = web.folder / "model" / "model.safetensors"
    shard.write_bytes(shard.read_bytes() + b"longer")
    with pytest.raises(CheckpointError, match="changed after its header was read"):
        read(checkpoint)


def test_replaced_while_it_is_read(web: Web, tmp_path: Path) -> None:
    shard = web.folder / "model" / "model.safetensors"
    content = bytes(3 * BLOCK)
    shard.write_bytes(pack_tensors({"w": ("U8", [len(content)], content)}))
    tensor = opened(web).tensors["w"]
    with Reader() as reader:
        reader.read_into(tensor, 0, memoryview(bytearray(1)))
        reader._cache.close()  # nothing is on its way any more
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
        with pytest.raises(CheckpointError, match="changed on the server while it was read"):
            reader.read_into(tensor, len(content) - 1, memoryview(bytearray(1)))
        with pytest.raises(CheckpointError, match="written to while it was read"):
            reader.check_unchanged()


def test_vanished_between_plan_and_merge(web: Web) -> None:
    checkpoint = opened(web)
    (web.folder / "model" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot open the shard to read tensor 'w'"):
        read(checkpoint)


def test_fingerprint_and_comparison(web: Web) -> None:
    folder = open_url(f"{web.url}/model")
    first, second = folder / "config.json", folder / "other.json"
    (web.folder / "model" / "other.json").write_text('{"model_type": "llama"}')
    assert at(first).fingerprint() == {
        "size": 23, "etag": web.etag(b'{"model_type": "llama"}')
    }  # fmt: skip
    assert same_content(first, second)
    assert same_content(first, web.folder / "model" / "config.json")
    (web.folder / "model" / "config.json").write_text('{"model_type": "other"}')
    assert not same_content(web.folder / "model" / "config.json", second)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks(web: Web, size: int) -> None:
    content = bytes(i * 7 % 251 for i in range(1021)) * (size // 1021 + 1)
    shard = web.folder / "model" / "model.safetensors"
    shard.write_bytes(pack_tensors({"w": ("U8", [size], content[:size])}))
    tensor = opened(web).tensors["w"]
    with Reader() as reader:
        whole = bytearray(size)
        reader.read_into(tensor, 0, memoryview(whole))
        assert whole == content[:size]
        web.asked.clear()
        for begin in (0, size // 2, size - 1):
            piece = bytearray(1)
            reader.read_into(tensor, begin, memoryview(piece))
            assert piece == content[begin : begin + 1]
    assert web.asked == []  # kept


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[MemoryFileSystem]:
    fs = fsspec.filesystem("memory")
    forget(fs)
    write_model(tmp_path / "m", "w")
    fs.put(str(tmp_path / "m") + "/", "/bucket/m/", recursive=True)
    yield fs
    forget(fs)


def test_any_file_system_of_fsspec(memory: MemoryFileSystem) -> None:
    checkpoint = open_checkpoint(open_url("memory://bucket/m"))
    assert read(checkpoint, 0, 1) == b"\x07"
    place = open_url("memory://bucket/m/model.safetensors")
    assert open_checkpoint(place).tensors.keys() == {"w"}
    assert at(place).fingerprint().keys() == {"size", "modified"}
    assert at(open_url("memory://bucket")).names() == ["m"]


def test_file_system_says_what_a_folder_holds(memory: MemoryFileSystem) -> None:
    memory.mv("/bucket/m/model.safetensors", "/bucket/m/pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds pickled weights only"):
        open_checkpoint(open_url("memory://bucket/m"))
    with pytest.raises(CheckpointError, match="memory://none: no such file or folder"):
        open_checkpoint(open_url("memory://none"))


def test_replaced_in_a_file_system(memory: MemoryFileSystem) -> None:
    checkpoint = open_checkpoint(open_url("memory://bucket/m"))
    memory.pipe("/bucket/m/model.safetensors", memory.cat("/bucket/m/model.safetensors"))
    with pytest.raises(CheckpointError, match="changed after its header was read"):
        read(checkpoint, 0, 1)


def test_unknown_scheme_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="nope://x: cannot be used"):
        open_url("nope://x")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(CheckpointError, match=r"pip install '\.\[remote\]'"):
        open_url("memory://x?y")
