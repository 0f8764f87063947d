"""Manifests and journals that somebody changed: a difference, an error, and never a wrong model."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tiny import digest, llama, recipe, save, write_recipe

import mergesafe
from mergesafe.checkpoint.output import folder as output
from mergesafe.engine.resume import unfinished as unfinished_work
from mergesafe.engine.resume.entries import MERGE
from mergesafe.errors import CheckpointError, MergesafeError, OutputError
from mergesafe.journal import encode_line
from mergesafe.untrusted import parse_object

NAME = "mergesafe-manifest.json"
VALUES: tuple[Any, ...] = (
    None, True, -1, 1e308, 10**300, "", "x", "../x", "/etc/passwd", "a\0b", "n" * 300, "\ud800",
    [], [[]], [1], {}, {"": {}}, {"digest": []}, [{}] * 3,
)  # fmt: skip


def merging(folder: Path) -> Path:
    for number, name in enumerate(("base", "a", "b")):
        save(folder / name, llama(number))
    content = recipe("ties", ["a", "b"], "base", each={"weight": 0.5, "density": 0.5})
    return write_recipe(folder / "r.yml", content)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp("made")
    prepared = merging(folder)
    mergesafe.merge(prepared, folder / "out")
    return prepared, folder / "out", (folder / "out" / NAME).read_text()


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)  # type: ignore[assignment]
    for key, inner in items:
        yield from paths(inner, (*at, key))


def mutated(content: Any, random: Random) -> Any:
    """A copy with one value or name of it changed."""
    content = json.loads(json.dumps(content))
    at = random.choice([path for path in paths(content) if path])
    place = content
    for key in at[:-1]:
        place = place[key]
    what = random.randrange(4)
    if what == 0:
        del place[at[-1]]
    elif what == 1 and isinstance(place, dict):
        place[str(random.choice(VALUES))] = place.pop(at[-1])
    else:
        place[at[-1]] = random.choice(VALUES)
    return content


ROUNDS = [10, pytest.param(300, marks=pytest.mark.slow)]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_tampered_manifest(made: tuple[Path, Path, str], rounds: int) -> None:
    prepared, out, text = made
    before, random = digest(out), Random(0)
    manifest = json.loads(text)
    for _ in range(rounds):
        changed = json.dumps(mutated(manifest, random))
        (out / NAME).write_text(changed)
        for act in (
            lambda: mergesafe.verify(out),
            lambda: mergesafe.merge(prepared, out, resume=True),
        ):
            with suppress(MergesafeError):
                act()
        assert (out / NAME).read_text() == changed  # nothing was made anew
    (out / NAME).write_text(text)
    assert digest(out) == before


@pytest.mark.parametrize("content", ["[" * 100_000, "", "[]", "{}", '{"format": 1}', "\0"])
def test_what_is_no_manifest(made: tuple[Path, Path, str], content: str) -> None:
    _, out, text = made
    (out / NAME).write_text(content)
    try:
        with pytest.raises(CheckpointError):
            mergesafe.verify(out)
    finally:
        (out / NAME).write_text(text)


def test_many_lists_are_not_parsed() -> None:
    """Twenty times the memory that they take as text."""
    with pytest.raises(ValueError, match="more than 4,000,000 lists and objects"):
        parse_object(b'{"a":[' + b"{}," * 4_000_000 + b"1]}")


@pytest.mark.parametrize("name", [NAME, "config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["pipe", "device", "folder"])
def test_verify_waits_for_nothing(
    made: tuple[Path, Path, str], tmp_path: Path, name: str, how: str
) -> None:
    _, out, _ = made
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in out.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / name).unlink()
    if how == "pipe":
        os.mkfifo(copy / name)
    elif how == "device":
        (copy / name).symlink_to("/dev/zero")
    else:
        (copy / name).mkdir()
    with pytest.raises(MergesafeError):
        mergesafe.verify(copy)
    shutil.rmtree(copy)  # what looks at all models that tests leave would wait


def unfinished(prepared: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work that is kept; its journal."""

    def failing(self: output.OutputFolder) -> None:
        raise OutputError("no more")

    with monkeypatch.context() as patched:
        patched.setattr(output.OutputFolder, "commit", failing)
        with pytest.raises(OutputError):
            mergesafe.merge(prepared, out, resume=True)
    (found,) = out.parent.glob(f".{out.name}.mergesafe-*/journal")
    return found


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_tampered_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """With digests that fit: what an unfinished merge depends on, places and parts of tiles."""
    prepared, out, random = merging(tmp_path), tmp_path / "out", Random(0)
    mergesafe.merge(prepared, tmp_path / "right")
    right = digest(tmp_path / "right")
    resumed = refused = 0
    for _ in range(rounds):
        place = unfinished(prepared, out, monkeypatch)
        lines = [json.loads(line.split("\t")[0]) for line in place.read_text().splitlines()]
        at = random.choice([0, random.randrange(len(lines))])
        lines[at] = mutated(lines[at], random)
        place.write_bytes(b"".join(map(encode_line, lines)))
        try:
            mergesafe.merge(prepared, out, resume=True)
            resumed += 1
        except OutputError:
            refused += 1
            mergesafe.merge(prepared, out)
        assert digest(out) == right
        for file in sorted(out.iterdir()):
            file.unlink()
        out.rmdir()
    assert resumed
    assert refused


def test_damaged_journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, out, random = merging(tmp_path), tmp_path / "out", Random(1)
    mergesafe.merge(prepared, tmp_path / "right")
    right = digest(tmp_path / "right")
    for _ in range(5):
        place = unfinished(prepared, out, monkeypatch)
        data = bytearray(place.read_bytes())
        for _ in range(random.randint(1, 5)):
            data[random.randrange(len(data))] = random.randrange(256)
        place.write_bytes(data[: random.randint(0, len(data))])
        try:
            mergesafe.merge(prepared, out, resume=True)
        except OutputError:  # the header, or what was synced
            with pytest.raises(OutputError, match="of its journal is damaged"):
                mergesafe.merge(prepared, out, resume=True)
            mergesafe.merge(prepared, out)
        assert digest(out) == right
        for file in sorted(out.iterdir()):
            file.unlink()
        out.rmdir()


def test_a_huge_journal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, out = merging(tmp_path), tmp_path / "out"
    unfinished(prepared, out, monkeypatch)
    monkeypatch.setattr(unfinished_work, "MERGE", replace(MERGE, limit=100))
    with pytest.raises(OutputError, match="larger than 100 bytes, which none is"):
        mergesafe.merge(prepared, out, resume=True)


@pytest.mark.parametrize("seconds", [86_400, 10**9])
def test_inputs_from_the_future_are_resumed(tmp_path: Path, seconds: int) -> None:
    """Tools that keep times make them: a finished merge stays finished."""
    prepared, out = merging(tmp_path), tmp_path / "out"
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (time.time() + seconds,) * 2)
    time.sleep(0.02)
    mergesafe.merge(prepared, out)
    done = mergesafe.merge(prepared, out, resume=True)
    assert done.bytes_written == 0
    time.sleep(0.02)
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text())
    os.utime(config, (time.time() + seconds,) * 2)
    with pytest.raises(OutputError, match=r"config\.json was written to after it"):
        mergesafe.merge(prepared, out, resume=True)
