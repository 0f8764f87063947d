"""``report`` from Python and from the command line."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import command

import mergesafe as ms
from mergesafe.errors import DataError, OutputError

from .documents import FIXTURES, MET, document, write

GATE = document("gate", model="m", requirements=[MET], passed=True)


def test_the_function_and_the_package_share_a_name(tmp_path: Path) -> None:
    made = ms.report(FIXTURES, tmp_path / "one.html")
    from mergesafe.report.api import report

    again = ms.report([FIXTURES, FIXTURES / "gate.json"], tmp_path / "two.html")
    assert made.size == made.path.stat().st_size
    assert again.path.read_text() == made.path.read_text()
    assert inspect.signature(ms.report) == inspect.signature(report)


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    pages = [ms.report(FIXTURES, tmp_path / f"{i}.html").path.read_bytes() for i in range(2)]
    assert pages[0] == pages[1]


def test_a_report_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    run = write(tmp_path / "gate.json", GATE)
    out = ms.report(run, tmp_path / "report.html").path
    out.write_bytes(out.read_bytes() + b"\n")
    assert ms.report(run, out).size == out.stat().st_size
    before = run.read_text()
    with pytest.raises(OutputError, match="not a report of mergesafe"):
        ms.report(run, run)
    assert run.read_text() == before


def test_nothing_is_written_when_a_file_is_wrong(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "gate.json", {**GATE, "passed": 1})
    with pytest.raises(DataError, match=r"gate.json: \$\.passed"):
        ms.report(tmp_path / "runs", tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    run = write(tmp_path / "gate.json", GATE)
    with pytest.raises(OutputError, match="in a folder that exists and is writable"):
        ms.report(run, tmp_path / "no" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["gate.json"]


def test_the_output_may_be_no_folder(tmp_path: Path) -> None:
    run = write(tmp_path / "gate.json", GATE)
    with pytest.raises(OutputError, match=str(tmp_path)):
        ms.report(run, tmp_path)


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = command("report", FIXTURES, "-o", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "merged-three-experts does not pass the gate."
    assert f"{out}: " in done.stdout.splitlines()[-1]
    assert out.read_text().startswith("<!doctype html>")


def test_command_for_machines(tmp_path: Path) -> None:
    done = command("report", FIXTURES, "-o", tmp_path / "report.html", "--json")
    said = json.loads(done.stdout)
    assert said["kind"] == "report"
    assert said["headline"] == "merged-three-experts does not pass the gate."
    assert said["bytes"] == (tmp_path / "report.html").stat().st_size
    assert {each["kind"] for each in said["files"]} >= {"gate", "manifest"}
    quiet = command("report", FIXTURES, "-o", tmp_path / "report.html", "--quiet")
    assert (quiet.stdout, quiet.stderr) == ("", "")


def test_command_refuses(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {**GATE, "kind": "gat"})
    done = command("report", path, "-o", tmp_path / "report.html")
    assert done.returncode == 2
    assert done.stderr.startswith(f"mergesafe: error: {path}: $.kind: 'gat'")
    assert done.stderr.count("\n") == 1


def test_a_newer_file_is_warned_about(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {**GATE, "mergesafe": "99.0"})
    done = command("report", path, "-o", tmp_path / "report.html")
    assert done.returncode == 0
    assert "mergesafe: warning: " in done.stderr
    assert "99.0, which is newer" in done.stderr


def test_neither_torch_nor_transformers_is_imported(tmp_path: Path) -> None:
    run = write(tmp_path / "gate.json", GATE)
    code = (
        "import sys, mergesafe; "
        f"mergesafe.report({str(run)!r}, {str(tmp_path / 'r.html')!r}); "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
