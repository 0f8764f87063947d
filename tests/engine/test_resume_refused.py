"""Work that was begun otherwise, or by another version, is not resumed, and not lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mergesafe.checkpoint.format.digest import digest_of, text
from mergesafe.engine.resume.entries import MERGE
from mergesafe.journal import Journal

from .crashing import Merges, other_recipe, other_scale, usual


@pytest.fixture
def ties(tmp_path: Path) -> Merges:
    return usual(tmp_path, "ties")


def other_input(merges: Merges) -> None:
    shard = merges.folder / "a" / "model.safetensors"
    status = shard.stat()
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def other_version(merges: Merges) -> None:
    """The journal of another version, with valid digests."""
    path = merges.area / "journal"
    with Journal(path, MERGE) as journal:
        found = journal.read()
        assert found is not None
        assert found.subject is not None
        journal.begin({**found.subject, "mergesafe_version": "0.0.9"}, found.records)


def first_version(merges: Merges) -> None:
    """The journal as version 0.1.0 wrote it: without a header, and with digests of XXH3."""
    path = merges.area / "journal"
    with Journal(path, MERGE) as journal:
        found = journal.read()
    assert found is not None
    lines = [json.dumps(each) for each in (found.subject, *found.records)]
    made = [f"{each}\t{text(digest_of(each.encode()))[16:]}\n" for each in lines]
    path.write_text("".join(made))


def damaged_line(merges: Merges) -> None:
    """What was synced was changed: the journal ends with a mark that says so."""
    path = merges.area / "journal"
    with Journal(path, MERGE) as journal:
        found = journal.read()
        assert found is not None
        assert found.subject is not None
        journal.begin(found.subject, found.records)
        journal.sync()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"task":', b'"task": ')
    path.write_bytes(b"".join(lines))


CHANGES: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "recipe": (other_recipe, (), "the recipe has changed since"),
    "input": (other_input, (), "model.safetensors has changed since (mtime_ns)"),
    "scale": (other_scale, (), "adapter_config.json counts too) has changed since."),
    "version": (other_version, (), "begun by mergesafe 0.0.9"),
    "first version": (first_version, (), "line 1 of its journal is damaged, or of an earlier"),
    "damaged": (damaged_line, (), "line 3 of its journal is damaged, which no crash does"),
    "seed": (None, ("--seed", "1"), "--seed"),
    "rule": (None, ("--on-nonfinite", "zero"), "--on-nonfinite"),
    "shards": (None, ("--max-shard-size", "90kB"), "--max-shard-size"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_work_is_not_resumed(change: str, ties: Merges) -> None:
    ties.run("kill", ties.calls // 2)
    act, options, message = CHANGES[change]
    if act is not None:
        act(ties)
    kept = [ties.area / "journal", ties.area / "model" / "model.safetensors"]
    before = [path.read_bytes() for path in kept]
    done = ties.resume(*options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "without --resume" in done.stderr
    assert [path.read_bytes() for path in kept] == before  # nothing is lost
