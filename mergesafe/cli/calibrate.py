"""``mergesafe calibrate``: progress and summary."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mergesafe.calibration.api import CalibrateResult, calibrate
from mergesafe.cli.generate import Bar
from mergesafe.cli.shared import print_json, say, warn
from mergesafe.engine.memory import format_size
from mergesafe.terminal.progress import LogLines
from mergesafe.terminal.text import printable
from mergesafe.version import __version__


def run(model: str, data: Path, out: Path, *, json: bool, quiet: bool, **options: Any) -> None:
    """Calibrate with progress, bars on a terminal and lines in a log; print a summary or JSON."""
    bar: Bar | LogLines | None = None
    if not (json or quiet):
        bar = Bar() if sys.stderr.isatty() else LogLines()
    try:
        result = calibrate(model, data, out, progress=bar, **options)
    finally:
        if bar is not None:
            bar.stop()
    if json:
        print_json(as_json(result))
    elif not quiet:
        warn(result.warnings)
        say(printable(summary(result)))


def as_json(result: CalibrateResult) -> dict[str, Any]:
    return {
        "mergesafe": __version__,
        "out": str(result.path),
        "kind": result.kind,
        "tensors": result.tensors,
        "bytes_written": result.bytes_written,
        "records": result.records,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 3),
        "warnings": list(result.warnings),
    }


def summary(result: CalibrateResult) -> str:
    return (
        f"{result.path}: '{result.kind}' of {result.tensors:,} tensors "
        f"({format_size(result.bytes_written)}) from {result.records:,} records of "
        f"{result.tokens:,} tokens in {result.seconds:.1f} s"
    )
