"""Folders that may not become the output, with or without overwriting."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mergesafe.errors import OutputError

from .helpers import failing, listing, new, old_output, small_layout, write


def refused(path: Path, message: str, *, overwrite: bool = True, protect: tuple[Path, ...] = ()):
    with (
        pytest.raises(OutputError) as caught,
        new(path, overwrite=overwrite, protect=protect),
    ):
        pass
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_non_empty_folder(tmp_path: Path) -> None:
    out = old_output(tmp_path / "out")
    refused(out, "the output folder is not empty", overwrite=False)
    assert listing(tmp_path) == ["out", "out/old.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_as_output(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").write_text("x")
    refused(tmp_path / "out", "this is a file", overwrite=overwrite)


def test_file_above_the_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file" / "out", "could not create it (Not a directory)")


def test_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError, match="Too many levels of symbolic links"):
        new(tmp_path / "a")


def test_root_home_and_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "users" / "me", tmp_path / "work" / "here"
    home.mkdir(parents=True)
    here.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    for path in (Path("/"), home, home.parent, here, Path(), here.parent, tmp_path):
        refused(path, "or lies above it, and it would be replaced")
    write(here / "out")


def test_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    refused(tmp_path / "out", "this is a mount point", overwrite=False)


def test_overwrite_spares_the_inputs(tmp_path: Path) -> None:
    model = old_output(tmp_path / "models" / "base")
    shard = model / "old.txt"
    refused(model, "would delete the input", protect=(model,))
    refused(model, "would delete the input", protect=(shard,))
    refused(model.parent, "would delete the input", protect=(model,))
    refused(model / "merged", "lies inside the input", protect=(model,))
    write(tmp_path / "models" / "base2", overwrite=True, protect=(model,))  # a sibling is fine
    assert shard.read_text() == "old"


def test_overwrite_sees_through_links(tmp_path: Path) -> None:
    model = old_output(tmp_path / "real" / "base")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused(tmp_path / "link" / "base", "would delete the input", protect=(model,))
    refused(tmp_path / "real", "would delete the input", protect=(tmp_path / "link" / "base",))
    links = tmp_path / "cache"
    links.mkdir()
    (links / "m.safetensors").symlink_to(model / "old.txt")
    refused(tmp_path / "real", "would delete the input", protect=(links / "m.safetensors",))
    refused(links, "would delete the input", protect=(links / "m.safetensors",))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_that_somebody_else_put_there(tmp_path: Path, overwrite: bool) -> None:
    old = old_output(tmp_path / "precious")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "out").symlink_to(old if overwrite else tmp_path / "new")
    os.lchown(shared / "out", 12345, 12345)
    before = listing(old)
    refused(shared / "out", "a link that user 12345 put there", overwrite=overwrite)
    assert listing(old) == before
    assert not (tmp_path / "new").exists()
    os.lchown(shared / "out", os.geteuid(), -1)
    write(shared / "out", overwrite=overwrite)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", failing(errno.EACCES))
    refused(tmp_path / "out", "could not create it (Permission denied). You may not write there")


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    size = small_layout(8).file_bytes
    refused(tmp_path / "deep" / "out", f"the output takes {size:,} bytes, but {tmp_path} has only")
    assert listing(tmp_path) == []
