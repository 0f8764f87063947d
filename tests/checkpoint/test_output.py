"""The output folder appears complete or not at all, whatever goes wrong."""

# ruff: noqa: PT012 - the folder's own with-block, where things go wrong, is inside pytest.raises

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mergesafe import private
from mergesafe.checkpoint.format.model import open_checkpoint
from mergesafe.checkpoint.output import _install
from mergesafe.checkpoint.output import folder as output
from mergesafe.errors import ArgumentError, CheckpointError, OutputError

from .helpers import ONE, TWO, A, B, failing, fill, listing, new, old_output, write

# Success


def test_complete_output(tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep" / "out"
    with new(out) as folder:
        assert not out.exists()
        fill(folder)
        folder.add_file("config.json", "{}")
        folder.add_file("sub/größe.bin", b"\0\1")
        folder.commit()
    assert listing(out) == [
        "config.json", ONE, TWO, "model.safetensors.index.json", "sub", "sub/größe.bin",
    ]  # fmt: skip
    checkpoint = open_checkpoint(out)
    for name, data in (("a", A), ("b", B)):
        info = checkpoint.tensors[name]
        assert info.path.read_bytes()[info.offset :] == data
    assert json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]["b"] == TWO
    assert os.listdir(out.parent) == ["out"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / ONE).stat().st_mode & 0o777 == 0o640


def test_empty_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert ONE in listing(tmp_path / "out")


def test_output_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert ONE in listing(tmp_path / "real")


def test_stale_temporary_folders_stay_and_do_not_block(tmp_path: Path) -> None:
    stale = tmp_path / ".out.mergesafe-01234567"
    stale.mkdir()
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == [stale.name, "out"]


def test_a_name_of_255_bytes(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255))
    assert ONE in listing(tmp_path / ("n" * 255))


def test_threads_write_in_parallel(tmp_path: Path) -> None:
    with new(tmp_path / "out", limit=100) as folder, ThreadPoolExecutor(8) as pool:
        start = folder.layout.placements["b"].offset
        jobs = [
            pool.submit(folder.pwrite, 0, start + n, memoryview(B + A)[n : n + 1])
            for n in range(16)
        ]
        for job in jobs:
            job.result()
        folder.commit()
    assert (tmp_path / "out" / "model.safetensors").read_bytes().endswith(B + A)


# Nothing is left behind


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_nothing(tmp_path: Path, kind: type[BaseException]) -> None:
    with pytest.raises(kind), new(tmp_path / "deep" / "out") as folder:
        fill(folder)
        raise kind
    assert listing(tmp_path) == []


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with new(tmp_path / "out") as folder:
        fill(folder)
    assert listing(tmp_path) == []


def test_exception_leaves_the_old_output(tmp_path: Path) -> None:
    out = old_output(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt), new(out, overwrite=True) as folder:
        fill(folder)
        raise KeyboardInterrupt
    assert listing(tmp_path) == ["out", "out/old.txt"]


def test_kill_leaves_no_output(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from mergesafe.checkpoint.output.folder import *\n"
        "layout = plan_layout([OutputTensor('a', 'U8', (8,))], 100, {})\n"
        "with OutputFolder(Path(sys.argv[1]), layout, overwrite=False, protect=[]) as folder:\n"
        "    folder.pwrite(0, layout.placements['a'].offset, memoryview(b'12345678'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".out.mergesafe-")
    write(tmp_path / "out")  # the leftover does not block the next run


def test_failure_while_creating_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(OutputError) as caught, new(tmp_path / "deep" / "out"):
        pass
    assert f"{ONE}: could not create it (No space left on device). Free space" in str(caught.value)
    assert listing(tmp_path) == []


def test_a_folder_that_cannot_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "remove_tree", failing(errno.EACCES))
    with pytest.warns(UserWarning, match="remove it by hand"), new(tmp_path / "out"):
        pass


# Writing


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOSPC, "Free space"), (errno.EIO, "The disk"), (errno.EROFS, "read-only")],
)
def test_write_errors_name_file_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    with pytest.raises(OutputError) as caught, new(tmp_path / "out") as folder:
        offset = folder.layout.placements["b"].offset
        monkeypatch.setattr(os, "pwrite", failing(code))
        fill(folder)
    message = str(caught.value)
    assert f"{tmp_path / 'out' / ONE}: wrote 0 of 8 bytes at byte {offset:,}" in message
    assert advice in message
    assert listing(tmp_path) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: real(fd, view[:3], offset))
    write(tmp_path / "out")
    assert (tmp_path / "out" / TWO).read_bytes().endswith(B)
    assert list(open_checkpoint(tmp_path / "out").tensors) == ["a", "b"]


def test_a_write_of_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="nothing was written"), new(tmp_path / "out") as folder:
        monkeypatch.setattr(os, "pwrite", lambda *_: 0)
        fill(folder)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_file_systems_without_fallocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(code))
    write(tmp_path / "out")
    assert list(open_checkpoint(tmp_path / "out").tensors) == ["a", "b"]


def test_systems_without_fallocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    write(tmp_path / "out")
    assert list(open_checkpoint(tmp_path / "out").tensors) == ["a", "b"]


def test_writes_outside_the_data_are_refused(tmp_path: Path) -> None:
    with new(tmp_path / "out") as folder:
        start, size = folder.layout.placements["a"].offset, folder.layout.shards[1].size
        for shard, offset, count in ((1, start - 1, 1), (1, size, 1), (1, start, 9), (1, 0, 8)):
            with pytest.raises(ArgumentError, match="lie outside the data"):
                folder.pwrite(shard, offset, memoryview(bytes(count)))
        for shard in (-1, 2):
            with pytest.raises(ArgumentError, match="there is no shard"):
                folder.pwrite(shard, start, memoryview(b"x"))
        folder.pwrite(1, start, memoryview(b""))


def test_closed_folder(tmp_path: Path) -> None:
    with new(tmp_path / "out") as folder:
        fill(folder)
        folder.commit()
        for action in (lambda: fill(folder), folder.commit, lambda: folder.add_file("x", b"")):
            with pytest.raises(ArgumentError, match="the output folder is closed"):
                action()
    assert list(open_checkpoint(tmp_path / "out").tensors) == ["a", "b"]


# Companions


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../../x", "a\\b", "a\0b", ".", ".."])
def test_companion_names_stay_inside(tmp_path: Path, name: str) -> None:
    with new(tmp_path / "out") as folder, pytest.raises(ArgumentError, match="cannot be the name"):
        folder.add_file(name, b"")


@pytest.mark.parametrize("name", [ONE, "model.safetensors.index.json", "twice"])
def test_companion_names_are_free(tmp_path: Path, name: str) -> None:
    with new(tmp_path / "out") as folder:
        folder.add_file("twice", b"")
        with pytest.raises(ArgumentError, match="already has a file"):
            folder.add_file(name, b"")


def test_copy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_COPY_CHUNK", 10)
    source = tmp_path / "source.txt"
    source.write_bytes(bytes(range(25)))
    (tmp_path / "link").symlink_to(source)
    with new(tmp_path / "out") as folder:
        folder.copy_file(source)
        folder.copy_file(tmp_path / "link", "other")
        with pytest.raises(CheckpointError, match="no such file"):
            folder.copy_file(tmp_path / "none")
        with pytest.raises(CheckpointError, match="this is a folder"):
            folder.copy_file(tmp_path)
        folder.commit()
    for name in ("source.txt", "other"):
        assert (tmp_path / "out" / name).read_bytes() == bytes(range(25))
        assert not (tmp_path / "out" / name).is_symlink()


def test_companion_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(OutputError, match=r"config\.json: wrote 0 of 2"),
        new(tmp_path / "o") as out,
    ):
        monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
        out.add_file("config.json", "{}")
    assert listing(tmp_path) == []


# Commit


def test_everything_is_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def named_fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def named_rename(source: str, target: str, **folders: int) -> None:
        events.append("rename")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "fsync", named_fsync)
    monkeypatch.setattr(os, "rename", named_rename)
    with new(tmp_path / "out") as folder:
        fill(folder)
        folder.add_file("sub/x", b"x")
        folder.commit()
        working = folder.working.name
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert set(before) == {"x", "sub", ONE, TWO, "model.safetensors.index.json", working}
    assert before[-1] == working
    assert after == [tmp_path.name]


def test_sync_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="could not sync it"), new(tmp_path / "out") as folder:
        fill(folder)
        monkeypatch.setattr(os, "fsync", failing(errno.EIO))
        folder.commit()
    assert listing(tmp_path) == []


def test_target_filled_meanwhile(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="Something else wrote to it"),
        new(tmp_path / "out") as folder,
    ):
        fill(folder)
        old_output(tmp_path / "out")
        folder.commit()
    assert listing(tmp_path) == ["out", "out/old.txt"]


@pytest.fixture(params=["exchange", "aside"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Replace by one atomic exchange, and by two renames where that is not available."""
    if request.param == "aside":
        monkeypatch.setattr(_install, "_exchange", lambda first, second: False)
    return str(request.param)


@pytest.mark.usefixtures("both_ways")
def test_overwrite_replaces_the_old_output(tmp_path: Path) -> None:
    out = old_output(tmp_path / "out")
    write(out, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert listing(out) == [ONE, TWO, "model.safetensors.index.json"]


@pytest.mark.usefixtures("both_ways")
def test_old_output_that_cannot_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = old_output(tmp_path / "out")
    monkeypatch.setattr(private, "remove_tree", failing(errno.EACCES))
    with pytest.warns(UserWarning, match="remove it by hand"):
        write(out, overwrite=True)
    assert list(open_checkpoint(out).tensors) == ["a", "b"]


@pytest.mark.parametrize("failures", [1, 2])
def test_overwrite_rolls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """The rename of the old folder (1) or of the new one (2) fails."""
    out, real, calls = old_output(tmp_path / "out"), os.rename, []

    def rename(source: str, target: str, **folders: int) -> None:
        calls.append(target)
        if len(calls) == failures:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target, **folders)

    monkeypatch.setattr(_install, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match="could not rename"):
        write(out, overwrite=True)
    assert listing(tmp_path) == ["out", "out/old.txt"]


def test_interrupt_just_after_the_rename_keeps_the_new_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = old_output(tmp_path / "out"), os.rename, []

    def rename(source: str, target: str, **folders: int) -> None:
        calls.append(target)
        real(source, target, **folders)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_install, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write(out, overwrite=True)
    assert list(open_checkpoint(out).tensors) == ["a", "b"]


def test_exchange_is_refused_where_unknown(tmp_path: Path) -> None:
    one, two = (private.Place(None, str(tmp_path / name), tmp_path / name) for name in "ab")
    assert not _install._exchange(one, two)
