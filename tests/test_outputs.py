"""What an output may take the place of, and what it may not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mergesafe.errors import OutputError
from mergesafe.outputs import JUNIT, RESULT, Form, check_outputs, check_replaceable

XML = '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites tests="0">\n  <testsuite name="{}" />'


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (' {"kind": "gate", "mergesafe": "0.1.0"}', RESULT),
        ("", RESULT),  # as mktemp makes it
        (XML.format("mergesafe gate"), JUNIT),
    ],
)
def test_our_own_is_replaced(content: str, form: Form, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(content)
    check_replaceable(tmp_path / "x", form)
    check_replaceable(tmp_path / "missing", form)


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ('{"prompt": "mergesafe"}\n', RESULT),
        ('{"mergesafe": 1}\n{"mergesafe": 2}\n', RESULT),
        ('["mergesafe"]', RESULT),
        ('{"mergesafe"', RESULT),
        ("\udcff", RESULT),
        ('{"mergesafe": 1}', JUNIT),
        (XML.format("pytest"), JUNIT),
    ],
)
def test_what_is_not_ours_is_kept(content: str, form: Form, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(OutputError, match=f"is not {form.what}.*choose another name"):
        check_replaceable(tmp_path / "x", form)


def test_a_device_is_kept() -> None:
    with pytest.raises(OutputError, match="is not a result"):
        check_replaceable(Path("/dev/null"), RESULT)


@pytest.mark.parametrize("link", [os.symlink, os.link, None])
def test_an_input_is_known_by_every_name(link: object, tmp_path: Path) -> None:
    read, out = tmp_path / "in.json", tmp_path / "out.json"
    read.write_text('{"mergesafe": "0.1.0"}')
    if callable(link):
        link(read, out)
    else:
        out = tmp_path / "sub" / ".." / "in.json"
        (tmp_path / "sub").mkdir()
    with pytest.raises(OutputError, match=r"--out .*is a file that is read.*another name"):
        check_outputs({"--out": (out, RESULT)}, [tmp_path / "missing", read])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")  # where nothing is yet
    with pytest.raises(OutputError, match=r"--junit .*is what --out writes to, too"):
        check_outputs({"--out": (tmp_path / "a", RESULT), "--junit": (tmp_path / "link", JUNIT)})
    check_outputs({"--out": (tmp_path / "a", RESULT), "--junit": (None, JUNIT)})


@pytest.mark.parametrize("form", [RESULT, JUNIT])
def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "stat", lambda path, **options: os.stat(__file__))
    with pytest.raises(OutputError, match="cannot be written"):
        check_replaceable(tmp_path / "pipe", form)
