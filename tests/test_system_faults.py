"""Errors of the system become errors of ours, with a way out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli.helpers import one_paragraph
from family import Family
from tiny import leftovers, recipe

import mergesafe
from mergesafe.checkpoint.output.staging import StagingFolder
from mergesafe.checkpoint.places.location import at
from mergesafe.engine.memory import Arena
from mergesafe.errors import CheckpointError, MergesafeError, ResourceError, UnreadableError
from mergesafe.system_faults import explained


def failure(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), ("too little memory", "--memory")),
        (failure(errno.ENOMEM, "a/b"), ("too little memory", "a/b", "--memory")),
        (RuntimeError("can't start new thread"), ("too few threads", "--threads", "ulimit -u")),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 TB"), ("too little memory",)),
        (ImportError("x.so: failed to map segment from shared object"), ("too little memory",)),
        (failure(errno.EIO, "a/b"), ("a/b", "Input/output error", "disk")),
        (failure(errno.EXDEV, "a/b"), ("a/b", "container's image", "choose another folder")),
        (failure(errno.EMFILE), ("Too many open files", "ulimit -n")),
    ],
)
def test_faults_of_the_system(error: Exception, words: tuple[str, ...]) -> None:
    told = explained(error)
    assert isinstance(told, ResourceError)
    for word in words:
        assert word in str(told)
    assert "\n" not in str(told)


def test_other_errors_are_nothing_of_the_kind() -> None:
    for error in (ValueError("x"), RuntimeError("x"), KeyboardInterrupt(), OSError("x")):
        assert explained(error) is None
    ours = CheckpointError("x")
    assert explained(ours) is ours


#: The command, whose merge fails as the last argument says.
FAILING = """
import os, sys
from mergesafe.cli import merge
from mergesafe.cli.main import main
error = eval(sys.argv.pop())
def fail(*a, **k): raise error
merge.merge_checkpoints = fail
main()
"""


@pytest.mark.parametrize(
    "error", ["MemoryError()", "OSError(5, os.strerror(5), 'a/b')", "BrokenPipeError(32, 'broken')"]
)
def test_commands_end_with_status_2(error: str, tmp_path: Path) -> None:
    """A pipe that is broken is no success, unless it is standard output."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING, "merge", "r.yml", str(tmp_path / "out"), error],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    one_paragraph(done.stderr)


def test_what_may_not_be_read_is_not_said_to_be_written() -> None:
    told = explained(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a/b"))
    assert str(told) == (
        "a/b: the system reports an error: Permission denied. Check who may read and write it, and "
        "the folders above it."
    )


def test_buffers_that_cannot_be_had() -> None:
    with pytest.raises(ResourceError, match=r"too little memory: .* TB of buffers .*--memory"):
        Arena(1 << 60)


def test_fewer_threads_than_asked_for(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if started and thread.name.startswith("merge-"):
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    content = recipe("linear", family.models, each={"weight": 1})
    mergesafe.merge(content, family.folder / "alone", threads=1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    mergesafe.merge(content, family.folder / "out", threads=3)
    one, out = (family.folder / name / "model.safetensors" for name in ("alone", "out"))
    assert one.read_bytes() == out.read_bytes()


def test_no_thread_at_all(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    content = recipe("linear", family.models, each={"weight": 1})
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ResourceError, match="too few threads"):
        mergesafe.merge(content, family.folder / "out")
    assert not (family.folder / "out").exists()


def test_what_cannot_be_looked_at_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = at(tmp_path / "file")
    assert [place.exists(), place.present(), place.is_dir()] == [False] * 3
    assert not at(tmp_path / ("x" * 300)).exists()
    assert not at(Path("a\0b")).exists()

    def broken(*_: object, **__: object) -> os.stat_result:
        raise failure(errno.EIO)

    monkeypatch.setattr(os, "stat", broken)
    for ask in (place.exists, place.present, place.is_dir):
        with pytest.raises(UnreadableError, match="cannot be looked at"):
            ask()


def test_a_tokenizer_that_cannot_be_read_is_no_warning(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be said of its tokens: the merge would depend on the state of a disk."""
    original = os.open

    def broken(path: object, *arguments: object, **options: object) -> int:
        if str(path).endswith("one/tokenizer.json"):
            raise failure(errno.EIO)
        return original(path, *arguments, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", broken)
    (family.experts[0] / "tokenizer.json").write_text("{ }")
    content = recipe("linear", family.models, each={"weight": 1})
    with pytest.raises(MergesafeError, match=r"tokenizer\.json: cannot open the file"):
        mergesafe.merge(content, family.folder / "out")


def test_errors_of_closing_are_left_alone(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.close

    def broken(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        original(descriptor)
        if str(family.folder) in path:
            raise failure(errno.EIO)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc")
    content = recipe("linear", family.models, each={"weight": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", broken)
        mergesafe.merge(content, family.folder / "out")
    assert mergesafe.verify(family.folder / "out")
    assert leftovers(family.folder) == []


def test_a_finished_merge_leaves_no_hidden_folder_for_good(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a process that was killed between the last rename and tidying up."""
    content = recipe("linear", family.models, each={"weight": 1})
    with monkeypatch.context() as patch:
        patch.setattr(StagingFolder, "remove", StagingFolder.close)
        mergesafe.merge(content, family.folder / "out")
    assert len(leftovers(family.folder)) == 1
    mergesafe.merge(content, family.folder / "out", resume=True)
    assert leftovers(family.folder) == []


def test_a_folder_that_cannot_be_listed_is_not_empty(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.listdir

    def broken(path: object = ".") -> list[str]:
        if str(path) == str(family.experts[0]):
            raise failure(errno.EIO)
        return original(path)  # type: ignore[type-var]

    monkeypatch.setattr(os, "listdir", broken)
    content = recipe("linear", family.models, each={"weight": 1})
    with pytest.raises(UnreadableError, match="one: cannot list the folder"):
        mergesafe.merge(content, family.folder / "out")
