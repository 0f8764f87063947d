"""A Hub that is not what it is taken for: names, commits and sizes that lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from fake_hub import Hub, HubHandler
from family import Family
from web import serve

from mergesafe.checkpoint.places.hub_listing import check_commit, check_revision, listing
from mergesafe.errors import CheckpointError

COMMIT = "a" * 40


def sibling(name: Any = "config.json", size: Any = 5, oid: Any = COMMIT, lfs: Any = None) -> Any:
    return SimpleNamespace(rfilename=name, size=size, blob_id=oid, lfs=lfs)


@pytest.mark.parametrize(
    "name",
    ["../a", "a/../../b", "/etc/passwd", "a//b", "a/", "./a", "..", "", "..\\a", None, 7],
)
def test_names_that_lead_elsewhere(name: Any) -> None:
    with pytest.raises(CheckpointError, match="org/m: the Hub names a file") as caught:
        listing([sibling(), sibling(name)], "org/m")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "a\\b", "a\0b", "a\nb", "\x1b[31m", "a" * 256, "\u00e9" * 128, "/".join("abcdefgh" * 200),
        "\ud800", "\u202eabc", "a\u00a0b.png",
    ],
)  # fmt: skip
def test_names_that_a_file_system_may_not_take_are_left_out(name: str) -> None:
    """Published models hold such pictures and logs, which nothing reads."""
    assert list(listing([sibling(), sibling(name)], "org/m")) == ["config.json"]


@pytest.mark.parametrize("size", [-1, "5", 1 << 60, 10**400, 1.5, True, [5]])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(CheckpointError, match=r"org/m/config\.json: the Hub says that it has"):
        listing([sibling(size=size)], "org/m")


def test_digests_commits_and_revisions_that_are_none() -> None:
    for lfs in (SimpleNamespace(sha256="../x"), SimpleNamespace(sha256=None)):
        with pytest.raises(CheckpointError, match="digest"):
            listing([sibling(lfs=lfs)], "org/m")
    for commit in ("main", "../" + COMMIT, COMMIT + "/..", None, 7, "A" * 40, "a" * 500):
        with pytest.raises(CheckpointError, match="commit"):
            check_commit(commit, "org/m")
    for revision in ("../x", "a/../../b", "a//b", "a/", ".", "a" * 300):
        with pytest.raises(CheckpointError, match="not the name of a branch, tag or commit"):
            check_revision(revision, "org/m")
    check_revision("refs/pr/1", "org/m")
    assert check_commit(COMMIT, "org/m") == COMMIT


@pytest.fixture
def hub(family: Family) -> Iterator[Hub]:
    with serve(Hub(family.folder), HubHandler) as served:
        for folder in family.models:
            served.add(f"org/{folder.name}", folder)
        yield served


def escaping(said: dict[str, Any]) -> None:
    said["siblings"][0]["rfilename"] = "../../../escaped.json"


def commit(said: dict[str, Any]) -> None:
    said["sha"] = "../../../../escaped"


def small(said: dict[str, Any]) -> None:
    for each in said["siblings"]:
        if each["rfilename"] == "config.json":
            each["size"] = 3


def large(said: dict[str, Any]) -> None:
    for each in said["siblings"]:
        if each["rfilename"] == "config.json":
            each["size"] = 10**12


def odd(said: dict[str, Any]) -> None:
    said["siblings"] = {"a": ["b"]}


@pytest.mark.parametrize(
    ("lie", "words"),
    [(escaping, "no name of a file"), (commit, "expected 40 to 64 hexa"),
     (small, "first said that this file has 3 bytes"),
     (large, "the Hub says that this file has 1,000,000,000,000 bytes"), (odd, "")],
)  # fmt: skip
def test_a_merge_from_it(
    family: Family, hub: Hub, lie: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    hub.lie = lie
    content = tiny.recipe("linear", ["org/one", "org/two"], each={"weight": 0.5})
    path = tiny.write_recipe(tmp_path / "recipe.yml", content)
    environment = {**os.environ, **hub.environment(tmp_path / "cache")}
    done = tiny.process("plan", path, env=environment, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not list(tmp_path.rglob("*escaped*"))
