"""The steps of make gpu-check, with commands that need no GPU."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import gpu_check, steps
from bench.steps import Outcome, Step

PYTHON = sys.executable


def script(name: str, code: str, limit_s: float = 60.0, **options: object) -> Step:
    return Step(name, [PYTHON, "-c", code], limit_s, **options)  # type: ignore[arg-type]


def run_all(made: Sequence[Step], folder: Path, total_s: float = 60.0) -> list[Outcome]:
    return steps.run_all(made, folder / "logs", folder, total_s, say=lambda _: None)


def test_each_way_a_step_can_end(tmp_path: Path) -> None:
    made = [
        script("pass", "print('some'); print('last words')"),
        script("fail", "print('what went wrong'); raise SystemExit(7)"),
        script("slow", "print('begun', flush=True); import time; time.sleep(60)", 1.0),
        script("skip", "raise SystemExit(1)", missing=lambda: "no such tool"),
        script("refused", "print('x'); print('ERR_NO: not here'); exit(9)", refusals=("ERR_NO",)),
        Step("absent", ["/nonexistent/command"], 5.0),
        script("after", "print('still run')"),
    ]
    found = {outcome.name: outcome for outcome in run_all(made, tmp_path)}
    assert [(name, each.status, each.good) for name, each in found.items()] == [
        ("pass", "passed", True),
        ("fail", "failed", False),
        ("slow", "timed out", False),
        ("skip", "skipped", True),
        ("refused", "skipped", True),
        ("absent", "failed", False),
        ("after", "passed", True),
    ]
    assert found["pass"].detail == "last words"
    assert found["fail"].detail == "exit status 7: what went wrong"
    assert found["slow"].detail == "stopped after 1 s"
    assert 1.0 <= found["slow"].seconds < 20.0
    assert Path(found["slow"].log).read_text() == "begun\n"
    assert found["skip"].detail == "no such tool"
    assert found["refused"].detail == "ERR_NO: not here"
    assert "cannot be started" in found["absent"].detail


def test_a_refusal_counts_only_when_the_command_fails(tmp_path: Path) -> None:
    step = script("fine", "print('ERR_NO'); print('done')", refusals=("ERR_NO",))
    assert run_all([step], tmp_path)[0].status == "passed"


def test_what_a_stopped_step_started_is_stopped_too(tmp_path: Path) -> None:
    child = f"import time, pathlib; time.sleep(2); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert run_all([script("parent", code, 0.5)], tmp_path)[0].status == "timed out"
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_the_steps_share_one_time(tmp_path: Path) -> None:
    made = [script("slow", "import time; time.sleep(60)"), script("late", "pass")]
    first, second = run_all(made, tmp_path, total_s=0.5)
    assert (first.status, first.detail) == ("timed out", "stopped after 0 s")
    assert (second.status, second.detail) == ("timed out", "no time was left to start it")


def test_a_step_has_its_own_environment(tmp_path: Path) -> None:
    step = script("env", "import os; print(os.environ['A'])", environment={"A": "b"})
    assert run_all([step], tmp_path)[0].detail == "b"
    assert "A" not in os.environ


def test_without_a_gpu_one_line_and_status_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "why_no_gpu", lambda: "no GPU: none found")
    monkeypatch.setattr(gpu_check.steps, "run_all", lambda *_: pytest.fail("a step was run"))
    with pytest.raises(SystemExit) as stopped:
        gpu_check.main()
    assert stopped.value.code == 3
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "no GPU: none found\n")


ROW = {
    "case": "weighted_sum[3xbf16]", "backend": "native", "status": "ok", "elements": "67108864",
    "share": "0.95",
}  # fmt: skip
CSV = ",".join(ROW) + "\n" + ",".join(ROW.values()) + "\n"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A GPU is said to be there; $OUT is a fresh folder."""
    monkeypatch.setattr(gpu_check, "why_no_gpu", lambda: None)
    monkeypatch.setattr(gpu_check, "about", lambda: {"device": "Some GPU"})
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    return tmp_path / "out"


def test_the_summary_has_steps_and_targets(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = f"open({str(fake / 'roofline_cuda.csv')!r}, 'w').write({CSV!r})"
    made = [script("roofline", write), script("ncu", "", missing=lambda: "ncu is not on PATH")]
    monkeypatch.setattr(gpu_check, "plan", lambda python, out: made)
    assert gpu_check.main() == 0
    summary = json.loads((fake / "summary.json").read_text())
    assert [step["status"] for step in summary["steps"]] == ["passed", "skipped"]
    assert summary["about"]["device"] == "Some GPU"
    first = summary["targets"][0]
    assert (first["case"], first["measured"], first["met"]) == ("weighted_sum[3xbf16]", 0.95, True)
    assert len(summary["targets"]) > 1
    assert all(each["measured"] is None and each["why"] for each in summary["targets"][1:])
    printed = capsys.readouterr().out
    assert "device Some GPU" in printed
    assert "0.95 met" in printed
    assert "skipped" in printed.splitlines()[-2]


def test_a_failed_step_shows_in_the_status_and_old_results_are_not_reported(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.mkdir()
    (fake / "roofline_cuda.csv").write_text(CSV)  # from an earlier run
    made = [script("roofline", "raise SystemExit(1)"), script("tests", "print('3 passed')")]
    monkeypatch.setattr(gpu_check, "plan", lambda python, out: made)
    assert gpu_check.main() == 1
    summary = json.loads((fake / "summary.json").read_text())
    assert [step["status"] for step in summary["steps"]] == ["failed", "passed"]
    assert summary["targets"]
    assert all(each["measured"] is None for each in summary["targets"])


def test_the_plan_leaves_the_card_alone_and_skips_missing_tools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    made = {step.name: step for step in gpu_check.plan(PYTHON, tmp_path)}
    assert list(made) == [
        "build",
        "tests",
        "memcheck",
        "racecheck",
        "roofline",
        "merge",
        "tune",
        "ncu",
    ]
    reasons = {name: step.missing() for name, step in made.items()}
    assert reasons["memcheck"] == reasons["racecheck"] == "compute-sanitizer is not on PATH"
    assert reasons["ncu"] == "ncu is not on PATH"
    assert reasons["build"] is reasons["tests"] is reasons["roofline"] is None
    clocks = made["ncu"].command.index("--clock-control")
    assert made["ncu"].command[clocks + 1] == "none"
    assert made["build"].environment == {"MERGESAFE_CUDA": "ON"}
