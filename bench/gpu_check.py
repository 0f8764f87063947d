"""``python -m bench.gpu_check``, behind ``make gpu-check``: build, test and measure on a GPU.

Works offline with the Python that runs it. Every step has a time limit, its log goes to ``$OUT``
(bench/results/gpu by default), and the steps after a failed one are still taken. Exit status: 0
all good, 1 a step failed, 3 no GPU.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from bench import steps, targets
from bench.device import choose, leave, why_no_gpu
from bench.ncu import METRICS, REFUSALS, parse
from bench.steps import Outcome, Step

ROOT = Path(__file__).resolve().parents[1]
#: All steps together, in seconds.
TOTAL_S = 470
BACKENDS = ("native", "triton")


def tool_missing(name: str) -> str | None:
    return None if shutil.which(name) else f"{name} is not on PATH"


def module_missing(*names: str) -> str | None:
    lacking = [name for name in names if find_spec(name) is None]
    return f"{', '.join(lacking)} not installed" if lacking else None


def plan(python: str, out: Path) -> list[Step]:
    """The steps in order."""
    return [
        Step(
            "build",
            [python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--verbose",
             "--disable-pip-version-check", "--editable", "."],
            180,
            environment={"MERGESAFE_CUDA": "ON"},
        ),
        Step("tests", [python, "-m", "pytest", "-q", "-rs", "tests/ops", "tests/csrc",
              "tests/engine/test_device.py"], 180),
        sanitizer(python, "memcheck", 90),
        sanitizer(python, "racecheck", 90),
        Step(
            "roofline",
            [python, "-m", "bench.roofline", "--device", "cuda", "--out", str(out),
             "--backends", ",".join(BACKENDS)],
            240,
        ),
        Step("merge", [python, "-m", "bench.gpu_merge"], 120),
        Step(
            "tune", [python, "-m", "bench.gpu_tune"], 120,
            missing=lambda: module_missing("transformers", "accelerate"),
        ),
        Step(
            "ncu",
            # --clock-control none: leave the settings of the card as they are
            ["ncu", "--csv", "--profile-from-start", "off", "--clock-control", "none",
             "--metrics", ",".join(METRICS), python, "-m", "bench.ncu"],
            60,
            missing=lambda: tool_missing("ncu"),
            refusals=REFUSALS,
        ),
    ]  # fmt: skip


def sanitizer(python: str, tool: str, limit_s: float) -> Step:
    """Every CUDA kernel under compute-sanitizer, each tensor an allocation of its own, so that
    one element beyond a tensor is seen.
    """
    return Step(
        tool,
        # without API errors: torch asks for things that a driver may refuse, and copes
        ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", "--report-api-errors", "no",
         python, "-m", "bench.sanitize", "--device", "cuda"],
        limit_s,
        missing=lambda: tool_missing("compute-sanitizer"),
        refusals=("Device not supported",),
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    """The roofline, none if it was not written."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def about() -> dict[str, str]:
    """The GPU, its software and the commit, whatever became of the steps."""
    from bench.machine import commit, hardware

    return {**hardware(choose("cuda")), "commit": commit()}


def summarize(outcomes: Sequence[Outcome], out: Path) -> str:
    """Writes ``summary.json`` and returns what is printed last."""
    rows = rows_of(out / "roofline_cuda.csv")
    verdicts = targets.verdicts(rows, "cuda", BACKENDS)
    log = out / "ncu.log"
    counters = parse(log.read_text(errors="replace")) if log.exists() else []
    machine = about()
    summary = {
        "about": machine,
        "steps": [asdict(outcome) for outcome in outcomes],
        "targets": [
            {
                "backend": verdict.backend,
                "case": verdict.target.case,
                "what": verdict.target.what,
                "at_least": verdict.target.at_least,
                "bound": verdict.target.bound,
                "measured": verdict.value,
                "met": verdict.met,
                "why": verdict.why,
            }
            for verdict in verdicts
        ],
        "counters": counters,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    counted = [" ".join(f"{key} {value}" for key, value in row.items()) for row in counters]
    return "\n".join(
        [
            ", ".join(f"{key} {value}" for key, value in machine.items() if value),
            *(f"ncu: {each}" for each in counted),
            *(verdict.text() for verdict in verdicts),
            *(steps.text(outcome) for outcome in outcomes),
            f"logs and summary.json are in {out}",
        ]
    )


def main() -> int:
    missing = why_no_gpu()
    if missing is not None:
        leave(missing)
    out = Path(os.environ.get("OUT") or ROOT / "bench" / "results" / "gpu").resolve()
    for old in ("roofline_cuda.csv", "roofline_cuda.png", "ncu.log"):
        (out / old).unlink(missing_ok=True)  # an earlier run must not speak for this one
    outcomes = steps.run_all(plan(sys.executable, out), out, ROOT, TOTAL_S)
    print("\n" + summarize(outcomes, out))
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
