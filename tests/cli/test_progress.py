"""Lines of progress in a log: at most one in ten seconds, with a share and the time left."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import command, llama, recipe, save, write_recipe

from mergesafe import log_lines
from mergesafe.log_lines import LogLines, duration


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(log_lines.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_line_in_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines()
    for second in range(31):
        clock.now = 100.0 + second
        lines("merging", second, 60)
    assert capsys.readouterr().err.splitlines() == [
        "merging: 17%, about 50 s left",
        "merging: 33%, about 40 s left",
        "merging: 50%, about 30 s left",
    ]


def test_what_was_done_before_does_not_hasten_the_rest(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers of a cache, tensors of an earlier run: a share that took no time."""
    lines = LogLines()
    lines("questions", 900, 1000)
    clock.now += 20
    lines("questions", 910, 1000)
    assert capsys.readouterr().err == "questions: 91%, about 3 min left\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("merged: 40 of 120 responses", "merged: 40 of 120 responses: 33%, about 20 s left"),
        ("merged: 1,200 of 1,200 responses", "merged: 1,200 of 1,200 responses: 100%"),
        ("merged: 0 of 0 responses", "merged: 0 of 0 responses: 100%"),
        ("merged: reading", "merged: reading"),
        ("reading tensors: 1.5 GB of 3.0 GB", "reading tensors: 1.5 GB of 3.0 GB"),
        ("a\x1b[2Jb: 1 of 2", "a\\x1b[2Jb: 1 of 2: 50%, about 10 s left"),
    ],
)
def test_texts_that_count(
    text: str, line: str, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = LogLines()
    start = text.replace("40 of", "0 of").replace("1,200 of 1,200", "0 of 1,200")
    lines.say(start.replace("1 of 2", "0 of 2"))
    clock.now += 10
    lines.say(text)
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12000, "3 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("option", ["--threads", "--quiet", "--json"])
def test_a_merge_in_a_log(tmp_path: Path, option: str) -> None:
    """Not with --quiet or --json; one thread, so that lines come in order."""
    lines = option == "--threads"
    options = [option, "1"] if lines else [option]
    base, expert = (save(tmp_path / name, llama(i)) for i, name in enumerate("ab"))
    content = recipe("ties", [expert], base, each={"weight": 1.0, "density": 0.5})
    path = write_recipe(tmp_path / "recipe.yml", content)
    code = (
        "import sys\nfrom mergesafe import log_lines\nlog_lines.SECONDS = 0.0\n"
        "from mergesafe.cli.main import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "merge", str(path), str(tmp_path / "out"), *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = re.findall(r"^merging by ties: (\d+)%", done.stderr, re.MULTILINE)
    assert bool(told) == lines
    assert [int(share) for share in told] == sorted(int(share) for share in told)
    assert not lines or told[-1] == "100"


def test_a_short_merge_says_nothing(tmp_path: Path) -> None:
    base, expert = (save(tmp_path / name, llama(i)) for i, name in enumerate("ab"))
    content = recipe("linear", [base, expert], each={"weight": 1.0})
    path = write_recipe(tmp_path / "recipe.yml", content)
    assert "left" not in command("merge", path, tmp_path / "out").stderr


def test_a_long_name_is_looked_through_once() -> None:
    began = time.process_time()
    for text in (" " * 100_000, "a" * 100_000, " 1" * 50_000, "9" * 100_000 + " of 1"):
        LogLines().say(text)
    assert time.process_time() - began < 1
