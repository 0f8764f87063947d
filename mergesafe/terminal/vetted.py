"""What vetting found, as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mergesafe.results.numbers import Rate
from mergesafe.safety.statistics import Estimate, interval
from mergesafe.safety.vet.merges.interaction import HARMS, ProbedMerge
from mergesafe.safety.vet.result import Vetted
from mergesafe.safety.vet.scope import meaning
from mergesafe.terminal.text import printable

_STYLES = {"unfit": "bold red", "warning": "yellow", "note": "dim"}


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
    if found.merges:
        _merges(found, to)
    fit = len(found.parents) - len(found.unfit)
    to.print()
    for text in meaning(fit, found.checked, found.not_checked):
        to.print(Text(printable(text), style="dim"))


def _rate(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.value:.2f} {interval(rate.low, rate.high)}"


def worse(merge: ProbedMerge, bound: float) -> list[str]:
    """In which rates a merge is certainly worse than the worst of its parents, and by how much."""
    return [
        f"{each.metric.replace('_', ' ')} worse by {_difference(each.estimate)} than {each.parent}"
        for each in merge.above(bound)
    ]


def _merges(found: Vetted, to: Console) -> None:
    """A table of the merges: rates, and how much worse than the worst parent each is."""
    rates = [each for each in HARMS if each not in found.meaning]
    table = Table(box=None, pad_edge=False)
    table.add_column("merge", overflow="fold")
    for rate in rates:
        table.add_column(rate.replace("_", " "), justify="right")
        table.add_column("worse than its parents by", justify="right")
    for merge in found.merges:
        made = merge.document(found.max_interaction)
        cells = []
        for rate in rates:
            cells.append(Text(_rate(made.rates.get(rate))))
            known = {each.metric: each for each in merge.interactions}.get(rate)
            above = rate in made.interactions and made.interactions[rate].above
            said = "-" if known is None else _difference(known.estimate)
            cells.append(Text(said, _STYLES["unfit"] if above else ""))
        table.add_row(Text(printable(merge.probe.name)), *cells)
    to.print()
    to.print(table)
    for merge in found.merges:
        if merge.problem:
            to.print(Text(printable(f"{merge.probe.name}: not asked: {merge.problem}")))


def _difference(found: Estimate) -> str:
    return f"{found.value:+.2f} {interval(found.low, found.high)}"
