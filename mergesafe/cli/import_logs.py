"""``mergesafe import-logs``: logs of other tools as an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mergesafe.cli.evaluate import show
from mergesafe.cli.evaluation import write_document
from mergesafe.cli.shared import print_json
from mergesafe.errors import ArgumentError
from mergesafe.outputs import RESULT, check_outputs
from mergesafe.safety.logs.api import import_logs


def run(
    logs: Sequence[Path],
    *,
    names: Sequence[str],
    metric: str | None,
    inverted: bool,
    confidence: float,
    out: Path | None,
    json: bool,
    quiet: bool,
) -> None:
    """Read and print a table or JSON; ``out`` gets the JSON too."""
    check_outputs({"--out": (out, RESULT)}, list(logs))
    found = import_logs(
        logs, names=_renamed(names), metric=metric, inverted=inverted, confidence=confidence
    )
    document = found.as_dict()
    write_document(out, document)
    if json:
        print_json(document)
    elif not quiet:
        show(found)


def _renamed(names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in names:
        old, equals, new = text.rpartition("=")
        if not (equals and old and new):
            raise ArgumentError(f"--name {text!r}: expected OLD=NEW")
        if old in found:
            raise ArgumentError(f"--name {text!r}: {old!r} is {found[old]!r} already")
        found[old] = new
    return found
