"""What is no file to read is told at once, whatever its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from report.documents import MET, completed, document

import mergesafe
from mergesafe.chat.records import read_records
from mergesafe.errors import DataError
from mergesafe.regular_file import open_regular, read_regular
from mergesafe.report.find import read_documents
from mergesafe.safety.evaluation.sets import read_set

GATE = json.dumps(completed(document("gate", model="m", requirements=[MET], passed=True)))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(path, 5) == read_regular(str(tmp_path / "link"), 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(path, 4)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    with pytest.raises(OSError, match="null byte"):
        open_regular("a\0b")


@pytest.fixture(params=["pipe", "zeros", "link to zeros", "socket"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What has no end, or none that comes by itself."""
    path = tmp_path / "odd.json"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "link to zeros":
        path.symlink_to("/dev/zero")
    elif request.param == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        return Path("/dev/zero")
    return path


def test_readers_do_not_wait(odd: Path) -> None:
    for read in (
        lambda: read_documents([odd]),
        lambda: read_records(odd),
        lambda: read_set("u", "unsafe", odd),
        lambda: mergesafe.gate("m", "safe_rate>=0.5", evaluation=odd),
    ):
        with pytest.raises(DataError, match=r"cannot be read \((a device|No such device)"):
            read()


def test_a_report_passes_over_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "b.json").symlink_to("/dev/zero")
    results = tmp_path / "results"
    results.mkdir()
    (results / "mergesafe-manifest.json").symlink_to("/dev/zero")
    (tmp_path / "gate.json").write_text(GATE)
    (results / "gate.json").symlink_to("../gate.json")
    with pytest.raises(DataError, match="holds no file that a report can show"):
        read_documents([results])
    assert len(read_documents([tmp_path])) == 1


def test_a_line_without_end(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with path.open("wb") as file:
        file.write(b'{"question": "a?"}\n')
        file.truncate(40 << 20)
    with pytest.raises(DataError, match=r"records.jsonl:2: has more than 16,777,216 bytes"):
        read_records(path)
