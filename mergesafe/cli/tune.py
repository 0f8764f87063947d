"""``mergesafe tune``: progress, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mergesafe.cli.evaluation import write_document
from mergesafe.cli.shared import print_json, warn
from mergesafe.errors import RequirementError
from mergesafe.outputs import RESULT, check_outputs
from mergesafe.terminal.text import printable
from mergesafe.terminal.tuning import show

if TYPE_CHECKING:
    from mergesafe.results.tuning import AtBounds
    from mergesafe.tune.results.blame import Blame
    from mergesafe.tune.results.result import TuneResult

#: Parts that are named, the worst first.
_WORST: Final = 5
_SHADES: Final = " ░▒▓█"


def run(
    recipe: Path, out: Path, report: Path | None, *, json: bool, quiet: bool, **options: Any
) -> None:
    """Tune with progress on standard error; print a summary or JSON."""
    from mergesafe.tune.api import journal_path, tune
    from mergesafe.tune.setup import files_read

    told: list[str] = []

    def tell(warnings: Sequence[str]) -> None:
        told.extend(warnings)
        if not (json or quiet):
            warn(told)

    read = [*files_read(recipe), journal_path(out)]
    check_outputs({"-o": (out, None), "--out": (report, RESULT)}, read)
    try:
        result = tune(
            recipe, out, progress=None if json or quiet else show, on_warnings=tell, **options
        )
    except KeyboardInterrupt:
        if not journal_path(out).exists():
            raise
        raise KeyboardInterrupt(
            "interrupted; what was computed is kept: go on with --resume"
        ) from None
    found = result.as_dict()
    write_document(report, found)
    if json:
        print_json(found)
    elif not quiet:
        warn([each for each in result.warnings if each not in told])
        for line in summary(result):
            print(printable(line))
    if not result.feasible:
        broken = [each.text for each in result.constraints if not each.met]
        raise RequirementError(
            f"no coefficients were found that keep {', '.join(broken)} on held-out questions; "
            f"{out} holds the nearest. Relax a constraint, add data, or allow more steps or a "
            "finer granularity"
        )


def summary(result: TuneResult) -> list[str]:
    """What was found, in a few lines."""
    if result.start is None or result.objective is None:
        return [
            f"{result.out}: {_coefficients(result)} as they start, without a search and without "
            "data",
            *(_at_bounds(each) for each in result.at_bounds),
        ]
    lines = [
        f"{result.out}: {', then '.join(result.searches)} over {_coefficients(result)}; objective "
        f"{result.start:.4f} -> {result.objective:.4f} in {result.evaluations} evaluations "
        f"({result.forward_passes} forward passes, {result.seconds:.0f} s)",
        f"  optimised on  {_changes(result.start_terms, result.terms)}",
        f"  held out      {_changes(result.start_heldout, result.heldout)}",
    ]
    lines += worse_lines(result)
    if result.objective >= result.start and not result.constraints:
        lines.append("  no better point than the start was found, so the start was kept")
    lines += [_at_bounds(each) for each in result.at_bounds]
    for each in result.constraints:
        verdict = "met" if each.met else "NOT MET"
        sure = "" if each.shown or not each.met else ", not shown with 95 % confidence"
        lines.append(
            f"  {each.text}: {verdict}, {each.value:.3f} [{each.low:.3f}, {each.high:.3f}] on "
            f"{each.n} held-out questions, bound {each.bound:.3f}{sure}"
        )
    if result.front is not None:
        lines += front_lines(result)
    if result.blame is not None:
        lines += blame_lines(result.blame)
    return lines


def _coefficients(result: TuneResult) -> str:
    kinds = {"lines": "lines of coefficients over the layers"}
    kind = kinds.get(result.granularity, f"{result.granularity} coefficients")
    return f"{kind} of {len(result.models)} models"


def worse_lines(result: TuneResult) -> list[str]:
    """The sets that got worse, or that none did."""
    if not result.worse:
        return ["  got worse     nothing"]
    parts = {"train": "optimised on", "heldout": "held out"}
    listed = [
        f"{each.term}, {parts[each.part]}, by {each.end - each.start:.4f}" for each in result.worse
    ]
    return [f"  got worse     {'; '.join(listed)}"]


def front_lines(result: TuneResult) -> list[str]:
    """The front's points, from safe to skilled."""
    lines = ["", "  safety  skill   (log-likelihood of held-out answers, nats a token)"]
    for point in result.front or ():
        mark = "  beaten by another point" if point.dominated else ""
        mark += "  written" if point.coefficients == result.coefficients else ""
        lines.append(f"  {point.safety:6.3f}  {point.skill:6.3f}{mark}")
    assert result.reference is not None  # as there is a front
    safety, skill = result.reference
    return [
        *lines,
        f"  hypervolume {result.hypervolume:.4f} beyond the untuned merge ({safety:.3f}, "
        f"{skill:.3f})",
    ]


def blame_lines(blame: Blame) -> list[str]:
    """A heat map: a row for each model, a column for each group, darker being more to blame."""
    table = blame.leave_one_out or blame.gradient
    worst = max((value for row in table for value in row), default=0.0)
    width = max(map(len, blame.models))
    lines = ["", "blame for the safety loss of the untuned merge: what it falls by without a part"]
    for model, row in sorted(zip(blame.models, table, strict=True), key=lambda m: -sum(m[1])):
        cells = "".join(_shade(value / worst if worst > 0 else 0.0) for value in row)
        lines.append(f"  {model:<{width}} |{cells}| {sum(row):+.3f}")
    lines.append(f"  {'':<{width}}  {blame.groups[0]} ... {blame.groups[-1]}")
    parts = [
        (value, model, group)
        for model, row in zip(blame.models, table, strict=True)
        for group, value in zip(blame.groups, row, strict=True)
    ]
    for value, model, group in sorted(parts, reverse=True)[:_WORST]:
        lines.append(f"  {value:+.4f}  {model}  {group}")
    return lines


def _shade(share: float) -> str:
    """From a space (harmless, or good for safety) to a full block."""
    return _SHADES[max(0, min(len(_SHADES) - 1, round(share * (len(_SHADES) - 1))))]


def _at_bounds(found: AtBounds) -> str:
    sides = ((found.at_low, found.low), (found.at_high, found.high))
    parts = [f"{number} at {bound:g}" for number, bound in sides if number]
    return (
        f"  on a bound    of {found.count} values of '{found.coefficient}' {' and '.join(parts)}; "
        "wider 'bounds' may find better"
    )


def _changes(start: dict[str, float], end: dict[str, float]) -> str:
    """``name start -> end`` of every term; a loss that falls gets better."""
    return ", ".join(
        f"{name} {start[name]:.4f} -> {value:.4f}" if name in start else f"{name} {value:.4f}"
        for name, value in end.items()
    )
