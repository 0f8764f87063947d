"""``mergesafe evaluate``: how safe and how skilled models are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergesafe.cli.evaluation import (
    console,
    files_read,
    named_models,
    progress,
    resumable,
    write_document,
)
from mergesafe.cli.shared import print_json
from mergesafe.outputs import RESULT, check_outputs
from mergesafe.safety.statistics import ends
from mergesafe.terminal.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from mergesafe.results.evaluation import CorrectedRate, JudgeCalibration, JudgeErrors
    from mergesafe.results.numbers import Rate
    from mergesafe.safety.evaluation.result import Evaluation, Figure


def run(models: list[str], *, out: Path | None, json: bool, quiet: bool, **options: Any) -> None:
    """Evaluate and print a table or JSON; ``out`` gets the JSON too."""
    from mergesafe.safety.evaluation.api import evaluate

    check_outputs({"--out": (out, RESULT)}, files_read(options))
    references = named_models(models)
    with resumable(options.get("cache")), progress(quiet or json) as tell:
        evaluation = evaluate(references, progress=tell, **options)
    document = evaluation.as_dict()
    write_document(out, document)
    if json:
        print_json(document)
    elif not quiet:
        show(evaluation)


def show(evaluation: Evaluation) -> None:
    """The tables and what to know about them."""
    shown = console(False)
    shown.print(figures_table(evaluation))
    if evaluation.comparisons:
        shown.print(comparison_table(evaluation))
    for line in remarks(evaluation):
        shown.print(printable(line), markup=False)


def figures_table(evaluation: Evaluation) -> Table:
    """A row a metric, a column a model: rates in percent, means as they are."""
    from rich.markup import escape
    from rich.table import Table

    confidence = evaluation.settings.confidence
    table = Table(title=f"rates in % [{100 * confidence:g} % interval]".replace("[", "\\["))
    table.add_column("metric", overflow="fold")
    table.add_column("n", justify="right")
    metrics: dict[str, int] = {}
    for model in evaluation.models:
        table.add_column(escape(printable(model.name)), justify="right", overflow="fold")
        metrics |= {name: figure.estimate.n for name, figure in model.figures.items()}
    for metric in evaluation.shown(metrics):
        cells = [cell(model.figures.get(metric)) for model in evaluation.models]
        table.add_row(escape(printable(metric)), str(metrics[metric]), *map(escape, cells))
    return table


def cell(figure: Figure | None) -> str:
    """``95.8 [86.0, 98.8]``, and how many verdicts were undecided."""
    if figure is None:
        return "-"
    scale, digits = (100, 1) if figure.kind == "rate" else (1, 3)
    found = figure.estimate
    low, high = found.low, found.high
    if figure.kind == "rate":
        low, high = (100 * end for end in ends(low, high, 3))
    unsure = f" ({figure.undecided} undecided)" if figure.undecided else ""
    return f"{scale * found.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{unsure}"


def comparison_table(evaluation: Evaluation) -> Table:
    """Every other model against the first one."""
    from rich.markup import escape
    from rich.table import Table

    first = evaluation.models[0].name
    table = Table(title=f"difference from {escape(printable(first))}, on the same questions")
    for heading in ("model", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("difference", "interval", "p (permutation)", "p (Holm)"):
        table.add_column(heading, justify="right")
    kinds: Mapping[str, Figure] = evaluation.models[0].figures
    for each in evaluation.comparisons:
        if each.first == first and evaluation.shown([each.metric]):
            rate = kinds[each.metric].kind == "rate"
            scale, digits = (100, 1) if rate else (1, 3)
            # The comparison is first − second; a reader wants second − first.
            found = (-each.estimate.value, -each.estimate.high, -each.estimate.low)
            value, low, high = (f"{scale * x + 0.0:+.{digits}f}" for x in found)
            table.add_row(
                escape(printable(each.second)), escape(printable(each.metric)), value,
                escape(f"[{low}, {high}]"), f"{each.p:.2g}", f"{each.p_holm:.2g}",
            )  # fmt: skip
    return table


def remarks(evaluation: Evaluation) -> list[str]:
    """Judges, sets, agreement, notes: a line each."""
    judges = ", ".join(f"{each.name} {each.version}" for each in evaluation.judges)
    lines = [f"judged by {judges}"]
    lines += [
        f"{each.role} set {each.name}: {each.records} from {each.path}"
        + (f", in the form '{each.variant}'" if each.variant else "")
        for each in evaluation.sets
    ]
    for pair in evaluation.agreement:
        kappa = "undefined" if pair.kappa is None else f"{pair.kappa:.2f}"
        lines.append(
            f"agreement of {pair.first} and {pair.second} about '{pair.about}': "
            f"Cohen's kappa {kappa} over {pair.n}"
        )
    lines += map(_known, evaluation.judge_errors)
    for each in evaluation.calibration:
        lines += _calibrated(each)
    return lines + [f"note: {note}" for note in evaluation.notes]


def _known(found: JudgeErrors) -> str:
    """How often the judge was right on other models' responses."""
    return (
        f"{found.judge} on people's labels of other models' responses ({found.labels}), about "
        f"'{found.about}': {_right(found)}"
    )


def _right(found: JudgeErrors | JudgeCalibration) -> str:
    return ", ".join(
        f"{name} {_in_percent(share)} of {share.n}"
        for name, share in (("sensitivity", found.sensitivity), ("specificity", found.specificity))
    )


def _calibrated(found: JudgeCalibration) -> list[str]:
    """How often the judge is right, and the rates without its errors."""
    lines = [f"{found.judge} on labelled responses, about {found.metric}: {_right(found)}"]
    return lines + [
        f"  {each.model}: {each.metric} without its errors {_in_percent(each)}"
        for each in found.corrected
    ]


def _in_percent(found: Rate | CorrectedRate) -> str:
    low, high = (100 * end for end in ends(found.low, found.high, 3))
    value = "not known" if found.value is None else f"{100 * found.value:.1f}"
    return f"{value} [{low:.1f}, {high:.1f}] %"
