"""``mergesafe transplant-tokenizer``: progress and summary."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mergesafe.cli.generate import Bar
from mergesafe.cli.shared import note, print_json, say, warn
from mergesafe.engine.memory import format_size
from mergesafe.log_lines import LogLines
from mergesafe.terminal.text import printable
from mergesafe.transplant.api import TransplantResult, transplant_tokenizer
from mergesafe.version import __version__

#: Special tokens that have a line each: some donors call hundreds of bytes special.
_SHOWN: Final = 16


def run(model: str, donor: str, out: Path, *, json: bool, quiet: bool, **options: Any) -> None:
    """Transplant with progress, a bar on a terminal and lines in a log; print a summary or JSON."""
    bar: Bar | LogLines | None = None
    if not (json or quiet):
        bar = Bar() if sys.stderr.isatty() else LogLines()
    try:
        result = transplant_tokenizer(model, donor, out, progress=bar, **options)
    finally:
        if bar is not None:
            bar.stop()
    if json:
        print_json(as_json(result))
    elif not quiet:
        warn(result.warnings)
        note(result.notes)
        say(*map(printable, summary(result)))


def as_json(result: TransplantResult) -> dict[str, Any]:
    described = asdict(result)
    return {
        "mergesafe": __version__,
        "out": str(described.pop("path")),
        **described,
        "seconds": round(result.seconds, 3),
        "warnings": list(result.warnings),
        "notes": list(result.notes),
    }


def summary(result: TransplantResult) -> Iterator[str]:
    """A line for each special token, for those with a row of another token first, and two of the
    whole.
    """
    listed = sorted(result.special, key=lambda each: each.source in (None, each.token))
    for each in sorted(listed[:_SHOWN], key=lambda each: each.id):
        source = "made" if each.source is None else f"the row of {each.source} ({each.source_id})"
        yield f"  {each.token} ({each.id}): {source}"
    if more := listed[_SHOWN:]:
        made = sum(each.source is None for each in more)
        rows = f"{made:,} made, {len(more) - made:,} with a row of the model: see --json"
        yield f"  and {len(more):,} more special tokens, {rows}"
    filled = f", {result.filled:,} filled" if result.filled else ""
    yield (
        f"{result.path}: {result.tokens:,} tokens, {result.copied:,} rows copied, {result.made:,} "
        f"made by {result.method}{filled}"
    )
    yield (
        f"{result.tensors:,} tensors, {format_size(result.bytes_written)} in {result.seconds:.1f} s"
    )
