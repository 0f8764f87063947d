"""A run that is killed, goes on, and ends with what an undisturbed run makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from endpoint import Endpoint, Messages, serve
from tiny import COMMAND, command

from .models import REFUSAL, as_json, spec

pytest.importorskip("openai")
pytest.importorskip("datasketch")

QUESTIONS = 40
AT_A_TIME = 8  # of a concurrency of 2


class Slow(Endpoint):
    """Numbers its questions by seed, so that a repeated request is a repeated question."""

    def respond(self, model: str, messages: Messages) -> str:
        if model == "expert":
            asked = messages[-1]["content"]
            return (
                f"The answer to {asked}"
                if asked.startswith("Number")
                else as_json(f"Number {len(self.requests)}, {self.requests[-1]['seed']}?")
            )
        return REFUSAL


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("after", [1, 37, 70])
def test_killed(after: int, number: signal.Signals, tmp_path: Path) -> None:
    if number == signal.SIGINT and after != 37:
        pytest.skip("one interrupt is enough")
    with serve(Slow()) as end:
        path = recipe(end, tmp_path)
        assert command("generate", path, "--out", tmp_path / "whole").returncode == 0
        undisturbed = Counter((r["model"], r["messages"][-1]["content"]) for r in end.requests)
        assert set(undisturbed.values()) == {1}
        end.requests.clear()
        end.delay = 0.01
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
            assert stderr.count("\n") == 1
            assert "interrupted" in stderr
        assert not (tmp_path / "out/safety.jsonl").exists()
        assert len(end.requests) < 2 * QUESTIONS
        end.delay = 0
        done = command("generate", path, "--out", tmp_path / "out", "--resume")
        assert done.returncode == 0, done.stderr
        for name in os.listdir(tmp_path / "whole"):
            made = (tmp_path / "out" / name).read_bytes()
            assert made == (tmp_path / "whole" / name).read_bytes(), name
        asked = Counter((r["model"], r["messages"][-1]["content"]) for r in end.requests)
        assert set(asked) == set(undisturbed)
        assert sum(asked.values()) <= 2 * QUESTIONS + AT_A_TIME  # at most one batch is asked again
