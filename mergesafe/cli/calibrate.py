"""``mergesafe calibrate``: progress and summary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergesafe.calibration.api import CalibrateResult, calibrate
from mergesafe.calibration.merge_api import KIND, CalibrateMergeResult, calibrate_merge
from mergesafe.cli.generate import Bar
from mergesafe.cli.shared import print_json, say, warn
from mergesafe.engine.memory import format_size
from mergesafe.errors import ArgumentError
from mergesafe.log_lines import LogLines
from mergesafe.terminal.text import printable
from mergesafe.version import __version__


def run(
    model: str, data: Sequence[Path], out: Path, *, through_merge: bool, kind: str, json: bool,
    quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Calibrate with progress, bars on a terminal and lines in a log; print a summary or JSON."""
    if through_merge and kind != KIND:
        raise ArgumentError(f"--through-merge makes Grams, which regmean takes; not --kind {kind}")
    if not through_merge and Path(model).suffix in (".yml", ".yaml") and Path(model).is_file():
        raise ArgumentError(
            f"{model}: this is a recipe, and calibration is about one of its models: give that, or "
            "--through-merge for the Grams of RegMean++"
        )
    if not through_merge and len(data) > 1:
        raise ArgumentError(
            "--data is given more than once; put the records of one model into one file. With "
            "--through-merge it may be given once for each model of a recipe"
        )
    bar: Bar | LogLines | None = None
    if not (json or quiet):
        bar = Bar() if sys.stderr.isatty() else LogLines()
    try:
        result = (
            calibrate_merge(model, data, out, progress=bar, **options)
            if through_merge
            else calibrate(model, data[0], out, kind=kind, progress=bar, **options)  # type: ignore[arg-type]
        )
    finally:
        if bar is not None:
            bar.stop()
    if json:
        print_json(as_json(result))
    elif not quiet:
        warn(result.warnings)
        say(printable(summary(result)))


def as_json(result: CalibrateResult | CalibrateMergeResult) -> dict[str, Any]:
    files: dict[str, Any] = {}
    if isinstance(result, CalibrateMergeResult):
        files = {"recipe": str(result.recipe), "folders": [str(each) for each in result.folders]}
    return {
        "mergesafe": __version__,
        "out": str(result.path),
        **files,
        "kind": KIND if isinstance(result, CalibrateMergeResult) else result.kind,
        "tensors": result.tensors,
        "bytes_written": result.bytes_written,
        "records": result.records,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 3),
        "warnings": list(result.warnings),
    }


def summary(result: CalibrateResult | CalibrateMergeResult) -> str:
    if isinstance(result, CalibrateMergeResult):
        return (
            f"{result.recipe}: merge it for RegMean++; Grams of {len(result.folders)} models "
            f"({format_size(result.bytes_written)}) from {result.tokens:,} tokens in "
            f"{result.seconds:.1f} s"
        )
    return (
        f"{result.path}: '{result.kind}' of {result.tensors:,} tensors "
        f"({format_size(result.bytes_written)}) from {result.records:,} records of "
        f"{result.tokens:,} tokens in {result.seconds:.1f} s"
    )
