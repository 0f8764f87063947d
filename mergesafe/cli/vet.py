"""``mergesafe vet``: one verdict per parent, with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergesafe.cli.evaluation import (
    console,
    files_read,
    named_models,
    progress,
    resumable,
    write_document,
)
from mergesafe.cli.shared import print_json, printable
from mergesafe.errors import RequirementError
from mergesafe.outputs import RESULT, check_outputs
from mergesafe.safety.statistics import interval
from mergesafe.safety.vet.api import Vetted, vet
from mergesafe.safety.vet.findings import Parent
from mergesafe.safety.vet.scope import meaning

_STYLES = {"unfit": "bold red", "warning": "yellow", "note": "dim"}


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


def show(found: Vetted, to: Console) -> None:
    """A table of verdicts, then the reasons."""
    measured = dict.fromkeys(key for parent in found.parents for key in parent.rates)
    rates = [each for each in measured if each not in found.meaning]
    table = Table(box=None, pad_edge=False)
    table.add_column("parent", overflow="fold")
    table.add_column("verdict")
    for rate in rates:
        table.add_column(rate.replace("_", " "), justify="right")
    for severity in ("warning", "note"):
        table.add_column(f"{severity}s", justify="right")
    if found.base_rates:
        cells = [_rate(found.base_rates.get(rate)) for rate in rates]
        table.add_row(Text("base", "dim"), "", *cells, "", "")
    for parent in found.parents:
        verdict = Text("fit", "green") if parent.fit else Text("UNFIT", _STYLES["unfit"])
        counts = [
            str(sum(f.severity == severity for f in parent.findings))
            for severity in ("warning", "note")
        ]
        cells = [_rate(parent.rates.get(rate)) for rate in rates]
        table.add_row(Text(printable(parent.name)), verdict, *cells, *counts)
    to.print(table)
    for parent in found.parents:
        if parent.findings:
            to.print(Text(f"\n{printable(parent.name)}", style="bold"))
        for each in parent.findings:
            line = Text(f"  {each.severity:<8}", style=_STYLES[each.severity])
            line.append(f"{each.area:<10}", style="dim")
            line.append(printable(each.what), style="default")
            line.append(f"  [{printable(each.where)}]", style="dim")
            to.print(line)
    fit = len(found.parents) - len(found.unfit)
    to.print()
    for text in meaning(fit, found.checked, found.not_checked):
        to.print(Text(printable(text), style="dim"))


def _rate(rate: dict[str, float | int] | None) -> str:
    if rate is None:
        return "-"
    return f"{rate['value']:.2f} {interval(rate['low'], rate['high'])}"
