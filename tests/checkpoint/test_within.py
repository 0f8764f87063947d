"""Companions: only files of their own model, JSON where they claim to be, and as they were."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from family import Family
from tiny import leftovers, llama, recipe, save, write_recipe

import mergesafe
from mergesafe.checkpoint.output.companions import check_companions, companions
from mergesafe.checkpoint.places.within import check_within
from mergesafe.errors import ChangedInputError, CheckpointError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "tokenizer.json").write_text("{}")
    (tmp_path / "secret").write_text('{"key": "secret"}')
    return path


def check(model: Path) -> None:
    check_companions(companions([model], [model]))


NAMES = (
    "vocab.txt", "merges.txt", "LICENSE", "tokenizer.model", "generation_config.json",
    "additional_chat_templates/x.jinja", "1_Pooling/config.json", "x.tiktoken",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_links_out_of_the_folder_are_refused(model: Path, tmp_path: Path, name: str) -> None:
    (model / "modules.json").write_text('[{"path": "1_Pooling"}]')
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"outside the model's folder.*copy the file") as told:
        check(model)
    assert str(model / name) in str(told.value)


def test_a_folder_of_templates_elsewhere_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "x.jinja").write_text("secret")
    (model / "additional_chat_templates").symlink_to(tmp_path / "else")
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        check(model)


def test_links_within_the_folder_are_followed(model: Path, tmp_path: Path) -> None:
    (model / "files").mkdir()
    (model / "files" / "v").write_text("a")
    (model / "vocab.txt").symlink_to(Path("files", "v"))
    check(model)
    (tmp_path / "link").symlink_to(model)
    check(tmp_path / "link")


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    (snapshot / "1_Pooling").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "hash").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(Path("..", "..", "blobs", "hash"))
    (snapshot / "1_Pooling" / "config.json").symlink_to(Path("..", "..", "..", "blobs", "hash"))
    check(snapshot)
    check_within(snapshot / "1_Pooling", snapshot / "1_Pooling" / "config.json")


@pytest.mark.parametrize("digits", [40, 64])
def test_a_folder_of_links_to_the_hubs_cache(model: Path, tmp_path: Path, digits: int) -> None:
    """As ``huggingface-cli download --local-dir`` made them before it stopped making links."""
    blob = tmp_path / "models--a--b" / "blobs" / ("0f" * (digits // 2))
    blob.parent.mkdir(parents=True)
    blob.write_text("{}")
    (model / "vocab.json").symlink_to(blob)
    check(model)


@pytest.mark.parametrize("way", ["another repository", "blob", "blobs", "refs", "no repository"])
def test_what_only_looks_like_the_hubs_cache(tmp_path: Path, way: str) -> None:
    """An archive can hold such folders, too."""
    repository = tmp_path / ("x" if way == "no repository" else "models--a--b")
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_text("secret")
    target = blobs / "secret"
    if way == "another repository":
        target = tmp_path / "models--a--c" / "blobs" / "secret"
        target.parent.mkdir(parents=True)
        target.write_text("")
    elif way == "refs":
        target = repository / "refs" / "secret"
        target.parent.mkdir(parents=True)
        target.write_text("")
    elif way == "blobs":
        blobs.symlink_to(tmp_path / "home")
    else:
        blobs.mkdir()
        target.symlink_to(tmp_path / "home" / "secret")
        if way == "no repository":
            target.unlink()
            target.write_text("")
    (snapshot / "vocab.txt").symlink_to(target)
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        check_companions(companions([snapshot], [snapshot]))


@pytest.mark.parametrize("content", ["{}", "[]", "3", '"x"', "null", '["\\ud800"]', "[Infinity]"])
def test_any_json_is_carried(model: Path, content: str) -> None:
    for name in ("tokenizer.json", "vocab.json", "preprocessor_config.json"):
        (model / name).write_text(content)
    check(model)


@pytest.mark.parametrize(
    "content", [b"", b"key=secret", b"{", b'{"a": 1}x', b"NaN", b'{"a": NaN}', b'["\xff"]', b"[1,]"]
)
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "preprocessor_config.json"])
def test_what_is_not_json_is_refused(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: not (JSON|UTF-8)"):
        check(model)


def test_a_name_that_is_not_utf_8_is_refused(model: Path) -> None:
    (model / os.fsdecode(b"\xff.tiktoken")).write_text("")
    with pytest.raises(CheckpointError, match=r"udcff\.tiktoken' is not UTF-8"):
        check(model)


@pytest.mark.parametrize("name", ["LICENSE", "vocab.txt", "tokenizer.json"])
def test_what_is_far_too_large_is_not_copied(model: Path, name: str) -> None:
    """A file with a hole takes no room until it is copied."""
    (model / name).touch()
    os.truncate(model / name, 1 << 40)
    with pytest.raises(CheckpointError, match=rf"{name}: larger than 268,435,456 bytes"):
        check(model)


def test_a_large_tokenizer_is_checked_quickly(model: Path) -> None:
    entries = ",".join(f'"token{number}":{number}' for number in range(1_000_000))
    (model / "tokenizer.json").write_text(f'{{"model":{{"vocab":{{{entries}}}}}}}')
    began = time.process_time()
    check(model)
    assert time.process_time() - began < 2  # 0.1 s on a quiet machine


def merging(folder: Path) -> Path:
    for number, name in enumerate(("base", "a")):
        save(folder / name, llama(number))
        (folder / name / "vocab.txt").write_text("before")
    return write_recipe(folder / "r.yml", recipe("linear", ["base", "a"], each={"weight": 0.5}))


def rewritten(path: Path) -> None:
    path.write_text("behind")


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent.parent / "secret")


@pytest.mark.parametrize("change", [rewritten, linked])
def test_companions_that_change_during_the_merge(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    (tmp_path / "secret").write_text("secret")
    prepared = merging(tmp_path)
    path = tmp_path / "base" / "vocab.txt"
    time.sleep(0.01)

    def progress(made: object, planned: object) -> Callable[[int], None]:
        before = path.stat()
        change(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return lambda count: None

    with pytest.raises(ChangedInputError, match=r"vocab\.txt: the file was written to or replaced"):
        mergesafe.merge(prepared, tmp_path / "out", progress=progress)
    assert leftovers(tmp_path) == []


def test_a_companion_that_appears_during_the_merge_is_not_taken(tmp_path: Path) -> None:
    prepared = merging(tmp_path)

    def progress(made: object, planned: object) -> Callable[[int], None]:
        (tmp_path / "base" / "merges.txt").write_text("unseen")
        return lambda count: None

    mergesafe.merge(prepared, tmp_path / "out", progress=progress)
    assert (tmp_path / "out" / "vocab.txt").read_text() == "before"
    assert not (tmp_path / "out" / "merges.txt").exists()


def test_a_configuration_elsewhere_is_refused(tmp_path: Path, family: Family) -> None:
    config = family.base / "config.json"
    config.rename(tmp_path / "config.json")
    config.symlink_to(tmp_path / "config.json")
    content = recipe("linear", [family.base], each={"weight": 1})
    with pytest.raises(CheckpointError, match=r"config\.json: a link to .* outside"):
        mergesafe.plan(write_recipe(tmp_path / "r.yml", content))
