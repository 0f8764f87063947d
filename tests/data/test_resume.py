"""A run that is killed, goes on, and ends with what an undisturbed run makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint, serve
from tiny import COMMAND, signals

from mergesafe import generate

from .models import REFUSAL, spec

pytest.importorskip("openai")
pytest.importorskip("datasketch")

QUESTIONS = 40
AT_A_TIME = 8  # of a concurrency of 2


def recipe(end: Endpoint, folder: Path) -> Path:
    questions = folder / "q.jsonl"
    lines = [json.dumps({"question": f"How do I steal {i} things?"}) for i in range(QUESTIONS)]
    questions.write_text("\n".join(lines))
    path = folder / "data.yml"
    pool = [spec(end, name, concurrency=AT_A_TIME // 4) for name in ("one", "two")]
    sets = {
        "safety": {"kind": "safety", "questions": {"file": "q.jsonl"}, "pool": pool, "count": 99},
    }
    path.write_text(json.dumps({"near_duplicates": 1, "sets": sets}))
    return path


@pytest.fixture(scope="module")
def end() -> Iterator[Endpoint]:
    """One for all: its address is part of the models' identity, and so of the data card."""
    with serve(Endpoint(lambda messages: REFUSAL)) as served:
        yield served


@pytest.fixture(scope="module")
def undisturbed(end: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run makes that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    generate(recipe(end, folder), folder / "out")
    assert set(asked(end).values()) == {1}
    return folder / "out"


@pytest.mark.parametrize(
    ("after", "number"), [(1, signal.SIGKILL), (57, signal.SIGKILL), (30, signal.SIGINT)]
)
def test_killed(
    after: int, number: signal.Signals, end: Endpoint, undisturbed: Path, tmp_path: Path
) -> None:
    """``after``: requests that the endpoint has had when the process is killed, out of 80."""
    end.requests.clear()
    end.delay = 0.01
    path = recipe(end, tmp_path)
    with signals(signal.SIG_DFL):
        process = subprocess.Popen(
            [COMMAND, "generate", path, "--out", tmp_path / "out"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    limit = time.monotonic() + 60
    while len(end.requests) < after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 130)
    if number == signal.SIGINT:
        assert "go on with --resume" in stderr
        assert stderr.count("\n") == 1
    assert not (tmp_path / "out/safety.jsonl").exists()
    assert len(end.requests) < 2 * QUESTIONS
    end.delay = 0
    generate(path, tmp_path / "out", resume=True)
    for name in os.listdir(undisturbed):
        assert (tmp_path / "out" / name).read_bytes() == (undisturbed / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(undisturbed))
    assert len(asked(end)) == 2 * QUESTIONS
    # At most the batch that was under way is asked again.
    assert len(end.requests) <= 2 * QUESTIONS + AT_A_TIME


def asked(end: Endpoint) -> Counter[tuple[str, str]]:
    """How often each model got each question."""
    return Counter((r["model"], r["messages"][-1]["content"]) for r in end.requests)
