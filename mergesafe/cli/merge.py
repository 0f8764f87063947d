"""``mergesafe merge``: progress bar and summary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergesafe.cli.recipes import check_order, readable
from mergesafe.cli.shared import note, print_json, say, warn
from mergesafe.engine.api import merge as merge_checkpoints
from mergesafe.engine.memory import format_size
from mergesafe.engine.reports import MergeResult
from mergesafe.engine.run.bar import Bar
from mergesafe.engine.run.trace import TraceSummary
from mergesafe.engine.written import OPTION
from mergesafe.errors import ArgumentError
from mergesafe.terminal.merging import LogBar
from mergesafe.terminal.text import printable


def run(recipe: Path, out: str, *, json: bool, quiet: bool, **options: Any) -> None:
    """Merge with a progress bar on a terminal, lines in a log; print a summary or JSON.

    Raises:
        ArgumentError: the arguments are swapped.
    """
    check_order(recipe, out)
    bar: Bar | LogBar | None = None
    if not (json or quiet):
        bar = Bar() if sys.stderr.isatty() else LogBar()
    try:
        result = merge_checkpoints(
            readable(recipe), out, progress=bar.start if bar else None, **options
        )
    finally:
        if bar is not None:
            bar.stop()
    if json:
        print_json(as_json(result))
        return
    if not quiet:
        for each in (*result.documents.values(), result):
            warn(each.warnings)
            note(each.notes)
            say(printable(summary(each)))
        if result.trace is not None:
            say(printable(trace_summary(result.trace)))


def folders_by_document(written: Sequence[str]) -> dict[str, str]:
    """What ``--write-document`` says, NAME=FOLDER each time.

    Raises:
        ArgumentError: one is not of this form, or names a document again.
    """
    found: dict[str, str] = {}
    for text in written:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ArgumentError(
                f"{OPTION} {text}: expected NAME=FOLDER, the name of a document of the recipe and "
                "the folder that it is written to"
            )
        if name in found:
            raise ArgumentError(
                f"{OPTION} {text}: this document goes to {found[name]} already; give one folder"
            )
        found[name] = folder
    return found


def as_json(result: MergeResult) -> dict[str, Any]:
    described: dict[str, Any] = {
        "out": str(result.path),
        "tensors": result.tensors,
        "parameters": result.parameters,
        "bytes_read": result.bytes_read,
        "bytes_written": result.bytes_written,
        "resumed_bytes": result.resumed_bytes,
        "seconds": round(result.seconds, 4),
        "gigabytes_per_second": round(result.gigabytes_per_second, 3),
        "warnings": list(result.warnings),
        "notes": list(result.notes),
    }
    if result.documents:
        described["documents"] = {name: as_json(each) for name, each in result.documents.items()}
    if result.trace is not None:
        described["trace"] = {
            "path": str(result.trace.path),
            "wall_s": round(result.trace.wall, 4),
            "seconds": {step: round(spent, 4) for step, spent in result.trace.seconds.items()},
            "read_compute_overlap": round(result.trace.overlap, 4),
            "events_not_listed": result.trace.unlisted,
        }
    return described


def summary(result: MergeResult) -> str:
    earlier = result.resumed_bytes
    return (
        f"{result.path}: {result.tensors:,} tensors, {result.parameters / 1e6:,.1f} M parameters; "
        f"{f'{format_size(earlier)} were finished before; ' if earlier else ''}"
        f"read {format_size(result.bytes_read)}, wrote {format_size(result.bytes_written)} in "
        f"{result.seconds:.1f} s ({result.gigabytes_per_second:.1f} GB/s)"
    )


def trace_summary(trace: TraceSummary) -> str:
    """One line: seconds of each step over all threads, longest first."""
    longest = sorted(trace.seconds.items(), key=lambda item: -item[1])
    steps = ", ".join(f"{step} {spent:.2f}" for step, spent in longest)
    unlisted = f"; {trace.unlisted:,} events are counted but not listed" if trace.unlisted else ""
    return (
        f"{trace.path}: seconds over all threads: {steps}; reading and computing overlap in "
        f"{trace.overlap:.0%} of {trace.wall:.2f} s{unlisted}"
    )
