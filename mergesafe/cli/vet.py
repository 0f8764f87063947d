"""``mergesafe vet``: one verdict per parent, with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergesafe.cli.evaluation import (
    console,
    files_read,
    named_models,
    progress,
    resumable,
    write_document,
)
from mergesafe.cli.shared import print_json
from mergesafe.errors import RequirementError
from mergesafe.outputs import RESULT, check_outputs
from mergesafe.safety.vet.api import vet
from mergesafe.safety.vet.findings import Parent
from mergesafe.terminal.text import printable
from mergesafe.terminal.vetted import show


def run(
    models: Sequence[str], base: str, *, out: Path | None, json: bool, quiet: bool, **options: Any
) -> None:
    """Vet, print and write.

    Raises:
        RequirementError: a parent is unfit (exit status 3).
    """
    check_outputs({"--out": (out, RESULT)}, files_read(options))
    with resumable(options.get("cache")), progress(quiet or json) as tell:
        found = vet(named_models(models), base, on_progress=tell, **options)
    write_document(out, found.as_dict())
    if json:
        print_json(found.as_dict())
    elif not quiet:
        show(found, console(quiet))
    for note in found.notes if not json and not quiet else ():
        print(printable(f"note: {note}"))
    if found.unfit:
        reasons = " ".join(f"{parent.name}: {_reasons(parent)}." for parent in found.unfit)
        count, verb = len(found.unfit), "is" if len(found.unfit) == 1 else "are"
        raise RequirementError(
            f"{count} of {len(found.parents)} parents {verb} unfit to be merged. {reasons} Leave "
            f"{'it' if count == 1 else 'them'} out, or get {'it' if count == 1 else 'them'} from "
            "somewhere else."
        )


def _reasons(parent: Parent) -> str:
    """All that makes a parent unfit."""
    return "; ".join(
        f"{each.what.rstrip('.')} ({each.where})"
        for each in parent.findings
        if each.severity == "unfit"
    )
