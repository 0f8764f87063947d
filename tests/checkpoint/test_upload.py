"""Uploads: what makes a folder loadable comes last, and a failure leaves the local folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mergesafe.checkpoint.output.upload import check_upload, upload_folder
from mergesafe.checkpoint.places import remote
from mergesafe.errors import OutputError

from .helpers import forget

NAMES = (
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "README.md",
    "additional_chat_templates/tool.jinja", "tokenizer.json", "model.safetensors.index.json",
    "config.json", "mergesafe-manifest.json",
)  # fmt: skip
URL = "memory://bucket/merged"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return tmp_path / "local"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    monkeypatch.setattr(remote, "DELAYS", (0.0,))
    fs = fsspec.filesystem("memory")
    forget(fs)
    yield fs
    forget(fs)


@pytest.fixture
def calls(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written and removed, in order."""
    made: list[str] = []
    put, remove = store.put_file, store.rm_file

    def put_file(source: str, place: str, **options: Any) -> None:
        made.append(f"put {place.removeprefix('/bucket/merged/')}")
        put(source, place, **options)

    def rm_file(place: str) -> None:
        made.append(f"remove {place.removeprefix('/bucket/merged/')}")
        remove(place)

    monkeypatch.setattr(store, "put_file", put_file)
    monkeypatch.setattr(store, "rm_file", rm_file)
    return made


def there(store: MemoryFileSystem) -> dict[str, str]:
    prefix = "/bucket/merged/"
    return {name.removeprefix(prefix): store.cat(name).decode() for name in store.find(prefix)}


def test_everything_arrives_and_the_manifest_last(
    local: Path, store: MemoryFileSystem, calls: list[str]
) -> None:
    upload_folder(local, URL, overwrite=False)
    assert calls == [f"put {name}" for name in NAMES]
    assert there(store) == {name: f"content of {name}" for name in NAMES}


def test_content_is_not_overwritten_unasked(local: Path, store: MemoryFileSystem) -> None:
    store.pipe("/bucket/merged/a/old.txt", b"old")
    with pytest.raises(OutputError, match="the output folder is not empty"):
        check_upload(URL, overwrite=False)
    with pytest.raises(OutputError, match="the output folder is not empty"):
        upload_folder(local, URL, overwrite=False)
    assert there(store) == {"a/old.txt": "old"}


def test_old_model_stops_being_one_first(
    local: Path, store: MemoryFileSystem, calls: list[str]
) -> None:
    for name in ("config.json", "model.safetensors", "a/old.txt", "README.md"):
        store.pipe(f"/bucket/merged/{name}", b"old")
    upload_folder(local, URL, overwrite=True)
    assert calls == [
        "remove config.json", "remove model.safetensors", *(f"put {name}" for name in NAMES),
        "remove a/old.txt",
    ]  # fmt: skip
    assert there(store) == {name: f"content of {name}" for name in NAMES}


def test_failure_names_the_file_and_the_local_folder(
    local: Path, store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.put_file

    def put_file(source: str, place: str, **options: Any) -> None:
        if place.endswith("tokenizer.json"):
            raise OSError("connection reset by s3://me:secret@host/x?signature=secret")
        real(source, place, **options)

    monkeypatch.setattr(store, "put_file", put_file)
    with pytest.raises(OutputError) as caught:
        upload_folder(local, URL, overwrite=False)
    error = str(caught.value)
    assert "memory://bucket/merged/tokenizer.json: could not upload it" in error
    assert "gave up after 2 tries" in error
    assert f"complete in {local}" in error
    assert "secret" not in error
    assert not {"model.safetensors.index.json", "config.json"} & there(store).keys()
    assert (local / "config.json").exists()


def test_passing_failure_is_tried_again(
    local: Path, store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = store.put_file, ["once"]

    def put_file(source: str, place: str, **options: Any) -> None:
        if failures:
            raise TimeoutError(failures.pop())
        real(source, place, **options)

    monkeypatch.setattr(store, "put_file", put_file)
    upload_folder(local, URL, overwrite=False)
    assert there(store).keys() == set(NAMES)


def test_short_upload_is_noticed(
    local: Path, store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "put_file", lambda source, place, **_: store.pipe(place, b"x"))
    with pytest.raises(OutputError, match="1 bytes are there after the upload, expected 43"):
        upload_folder(local, URL, overwrite=False)


def test_an_upload_that_was_begun_goes_on(
    local: Path, store: MemoryFileSystem, calls: list[str]
) -> None:
    store.pipe("/bucket/merged/README.md", b"half")
    with pytest.raises(OutputError, match="the output folder is not empty"):
        upload_folder(local, URL, overwrite=False)
    upload_folder(local, URL, overwrite=False, begun=True)
    assert there(store) == {name: f"content of {name}" for name in NAMES}
    store.pipe("/bucket/merged/other.txt", b"mine")
    with pytest.raises(OutputError, match="the output folder is not empty"):
        check_upload(URL, overwrite=False, begun=local)


def test_a_folder_that_cannot_be_made_is_found_before_any_work(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def makedirs(path: str, exist_ok: bool = False) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(store, "makedirs", makedirs)
    with pytest.raises(OutputError, match=r"merged: could not create it \(No such file"):
        check_upload(URL, overwrite=False)


@pytest.mark.parametrize("failure", [FileNotFoundError(2, "gone"), KeyboardInterrupt()])
def test_whatever_ends_an_upload_says_where_the_model_is(
    failure: BaseException, local: Path, store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_file(source: str, place: str, **options: Any) -> None:
        raise failure

    monkeypatch.setattr(store, "put_file", put_file)
    with pytest.raises((OutputError, KeyboardInterrupt), match=f"complete in {local}: the same"):
        upload_folder(local, URL, overwrite=False)


def test_a_whole_bucket_is_not_replaced(store: MemoryFileSystem) -> None:
    with pytest.raises(OutputError, match="this is a whole store"):
        check_upload("memory://bucket", overwrite=True)


@pytest.mark.parametrize("place", [URL, f"{URL}/", "memory://bucket", f"{URL}/inner"])
def test_inputs_are_protected(store: MemoryFileSystem, place: str) -> None:
    with pytest.raises(OutputError, match="would replace the input"):
        check_upload(URL, overwrite=True, protect=[place])
    check_upload(URL, overwrite=True, protect=["memory://bucket/merged2"])


def test_what_cannot_be_written_to() -> None:
    with pytest.raises(OutputError, match="web servers do not take folders"):
        check_upload("https://me:secret@host/x", overwrite=False)
    with pytest.raises(OutputError, match="nope://x: cannot be used"):
        check_upload("nope://x", overwrite=False)
