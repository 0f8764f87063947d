"""``mergesafe inspector``: train a small encoder that judges responses, and test it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergesafe.cli.shared import Debug, Json, Quiet, guarded, print_json
from mergesafe.cli.usage import Commands
from mergesafe.terminal.text import printable

if TYPE_CHECKING:
    from mergesafe.safety.inspector.train import Report

app = typer.Typer(
    cls=Commands,
    help="Train and test an inspector: a small encoder that judges whether a response is safe.",
    no_args_is_help=True,
)

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help='JSON lines: an answer with "safe": true or false, or a preference.',
    ),
]


@app.command(
    epilog="Example: mergesafe inspector train labelled.jsonl -o inspector/ --encoder MiniLM/"
)
@guarded
def train(
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the inspector is written.")
    ],
    encoder: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="A pretrained encoder, or 'scratch' for a tiny untrained one."
        ),
    ] = "scratch",
    criterion: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose records to take, where DATA has several."),
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", help="The best one is kept.")] = 4,
    batch: Annotated[int, typer.Option(metavar="N", help="Responses at a time.")] = 16,
    rate: Annotated[float, typer.Option(metavar="RATE", help="Highest learning rate.")] = 5e-5,
    max_tokens: Annotated[
        int,
        typer.Option(metavar="N", help="Tokens of a question and its response; more is cut off."),
    ] = 256,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of the split and of the training.")
    ] = 0,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Lower the squads' threshold until at most this share of good responses is below.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FOLDER.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train on 70 % of the questions of DATA, calibrate on 15 %, and measure on the other 15 %.

    The inspector is then the judge 'inspector:FOLDER'. The same encoder trained on the questions
    alone is measured beside it: exits with status 3, and writes nothing, unless the inspector is
    better than that and than chance with 95 % confidence.
    """
    from mergesafe.safety.inspector.train import Training, train_inspector

    def told(epoch: int, loss: float, held: float) -> None:
        print(f"epoch {epoch}: loss {loss:.3f}, on calibration questions {held:.3f}", flush=True)

    train_inspector(
        data, out, encoder=encoder, criterion=criterion, overwrite=overwrite,
        training=Training(epochs, batch, rate, max_tokens, seed, false_alarms),
        progress=None if json or quiet else told,
        measured=lambda report: _show(report, "held out", json=json, quiet=quiet),
    )  # fmt: skip


@app.command("test", epilog="Example: mergesafe inspector test inspector/ other.jsonl")
@guarded
def measure(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A trained inspector.")],
    data: Data,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure the inspector in FOLDER on all of DATA, which it should not have seen."""
    from mergesafe.safety.inspector.train import measure_inspector

    _show(measure_inspector(folder, data), data.name, json=json, quiet=quiet)


def _show(report: Report, where: str, *, json: bool, quiet: bool) -> None:
    if json:
        print_json(report.as_json())
    elif not quiet:
        for line in as_text(report, where):
            print(printable(line))


def as_text(report: Report, where: str) -> list[str]:
    """The figures as lines."""
    found = report.metrics
    control, more = found["control"], found["gain"]
    counts = ", ".join(f"{count} {name}" for name, count in report.examples.items())
    return [
        f"{report.folder}: inspector from {report.encoder}, temperature {report.temperature:.2f}, "
        f"threshold {report.threshold:.3g}",
        f"responses          {counts}",
        f"figures on         {where}: {found['auc']['n']} responses, {found['safe']} of them safe",
        *(
            f"{name:<18} {_figure(found[key])}  questions alone {_figure(control[key])}"
            for name, key in (
                ("AUC", "auc"),
                ("accuracy", "accuracy"),
                ("balanced accuracy", "balanced_accuracy"),
            )
        ),
        f"beyond questions   {more['value']:+.3f} [{more['low']:+.3f}, {more['high']:+.3f}] of "
        "balanced accuracy",
        f"calibration error  {found['calibration_error']:.3f} "
        f"({found['calibration_error_uncalibrated']:.3f} before temperature scaling)",
        f"cross-entropy      {found['cross_entropy']:.3f} nats",
    ]


def _figure(found: dict[str, float]) -> str:
    from mergesafe.safety.statistics import interval

    return f"{found['value']:.3f} {interval(found['low'], found['high'], 3)}"
