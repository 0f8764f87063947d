"""``mergesafe generate``: summary, JSON, and one paragraph for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import command, process

from .helpers import refused

pytest.importorskip("datasketch")


def written(folder: Path, **wanted: Any) -> Path:
    base = {
        "kind": "safety",
        "questions": {"provider": "template"},
        "pool": [{"provider": "template"}],
        "count": 20,
    }
    path = folder / "data.yml"
    path.write_text(json.dumps({"sets": {"safety": {**base, **wanted}}}, indent=1))
    return path


def test_summary_and_files(tmp_path: Path) -> None:
    done = process("generate", written(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path / 'data/safety.jsonl'}: 20 records"
    assert lines[1].split() == ["answered", "by", "templates", "20"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "safety.card.json", "safety.card.md", "safety.jsonl",
    ]  # fmt: skip


def test_json(tmp_path: Path) -> None:
    done = command("generate", written(tmp_path), "--json", "--out", tmp_path / "out")
    said = json.loads(done.stdout)
    assert said["kind"] == "data_cards"
    (card,) = said["cards"]
    assert card == json.loads((tmp_path / "out/safety.card.json").read_text())
    assert (card["kind"], card["records"]) == ("data_card", 20)
    assert sum(card["topics"].values()) == 20


def test_quiet(tmp_path: Path) -> None:
    done = command("generate", written(tmp_path), "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_mistakes(tmp_path: Path) -> None:
    path = written(tmp_path, pool=[{"provider": "temlate"}])
    refused("generate", path, words=("data.yml:10", "did you mean 'template'?"))
    refused("generate", tmp_path / "no.yml", words=("no.yml", "cannot be read"))
    path = written(tmp_path, pool=[str(tmp_path / "nowhere")])
    refused("generate", path, words=("nowhere: there is no such folder",))
    (tmp_path / "q.jsonl").write_text('{"question": "a"}\n{"question": \n')
    path = written(tmp_path, questions={"file": "q.jsonl"})
    refused("generate", path, words=("q.jsonl:2: is not a JSON object",))


def test_a_folder_in_which_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    path = written(tmp_path)
    refused("generate", path, "--out", tmp_path / "out", words=("out: cannot be made",))
