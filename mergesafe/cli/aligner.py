"""``mergesafe aligner``: train a small model that corrects answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli.shared import Debug, Json, Quiet, guarded, print_json
from mergesafe.cli.usage import Commands
from mergesafe.terminal.text import printable

app = typer.Typer(
    cls=Commands,
    help="Train an aligner: a small model that corrects answers under one criterion.",
    no_args_is_help=True,
)


@app.callback()
def aligner() -> None:
    """Train an aligner: a small model that corrects answers under one criterion."""


@app.command(
    epilog="Example: mergesafe aligner train data/pairs.jsonl aligners/ethical "
    "--model models/small --lora --criterion ethical"
)
@guarded
def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSON lines of an alignment set.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the aligner is written.")],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A chat model: a folder or a Hub id.")
    ],
    lora: Annotated[
        bool, typer.Option("--lora", help="Train a LoRA adapter, not the whole model.")
    ] = False,
    criterion: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose records to take, where DATA has several."),
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", help="The best one is kept.")] = 3,
    batch: Annotated[int, typer.Option(metavar="N", help="Answers at a time.")] = 8,
    rate: Annotated[
        float,
        typer.Option(metavar="RATE", help="Highest learning rate; 0: 1e-3 for LoRA, else 2e-5."),
    ] = 0.0,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens of question, bad and corrected answer.")
    ] = 512,
    rank: Annotated[int, typer.Option(metavar="N", help="Of the LoRA adapter.")] = 8,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of the split and of the training.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from where an interrupted run was.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train MODEL to correct the answers of DATA, with the loss on the corrected answers alone.

    A tenth of the questions are held out; exits with status 3, and writes nothing, unless the loss
    on them falls. A squad names the aligner OUT, or MODEL+OUT with --lora. Needs the extra 'train'.
    """
    from mergesafe.safety.align.fit import AlignerTraining
    from mergesafe.safety.align.train import train_aligner

    def told(epoch: int, loss: float, held: float) -> None:
        print(f"epoch {epoch}: loss {loss:.3f}, on held-out questions {held:.3f}", flush=True)

    try:
        report = train_aligner(
            data, out, model=model, lora=lora, criterion=criterion, resume=resume,
            overwrite=overwrite,
            training=AlignerTraining(epochs, batch, rate, max_tokens, rank, seed),
            progress=None if json or quiet else told,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; the last state that was saved is kept: go on with --resume"
        ) from None
    if json:
        print_json(report.as_json())
    elif not quiet:
        counts = ", ".join(f"{count} {name}" for name, count in report.examples.items())
        print(printable(f"{report.model}: aligner of '{report.criterion}'"))
        print(printable(f"answers            {counts}"))
        print(f"held-out loss      {report.loss_before:.3f} before, {report.loss:.3f} nats a token")
