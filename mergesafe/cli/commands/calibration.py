"""The options of ``mergesafe calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli.environment import VARIABLES
from mergesafe.cli.shared import Debug, Json, Quiet, ShardSize, guarded


def register(app: typer.Typer) -> None:
    """Add it."""
    app.command(
        epilog="Example: mergesafe calibrate ./maths --data maths.jsonl -o maths-gram --kind gram"
    )(calibrate)


@guarded
def calibrate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder or Hub id, as in a recipe; with --through-merge a recipe.",
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            metavar="RECORDS",
            help="JSON lines of conversations; with --through-merge once, or once a model.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The folder to make.")],
    kind: Annotated[
        str,
        typer.Option(
            help="gram (for regmean and safe_delta), fisher (for fisher) or score (for led)."
        ),
    ] = "gram",
    through_merge: Annotated[
        bool,
        typer.Option(
            "--through-merge",
            help="Grams of RegMean++ for all models of a regmean recipe, and the recipe with them.",
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Bytes for weights, results and hidden states (default: 4GiB or half of what is "
            "free).",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            envvar=VARIABLES["--device"],
            help="auto (a GPU where there is one), cpu, cuda or cuda:N.",
        ),
    ] = "auto",
    tokens: Annotated[
        int, typer.Option(metavar="N", help="Longest record; longer answers are cut off.")
    ] = 1024,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Draw this many records (default: all).")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the draw of --limit.")] = 0,
    max_shard_size: ShardSize = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an unfinished run of the same model and data."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make numbers about MODEL from RECORDS, which regmean, fisher, led and safe_delta need.

    Name OUT in the recipe, beside the model: calibration: {gram: OUT}.
    """
    from mergesafe.cli.calibrate import run

    run(
        model, data, out, through_merge=through_merge, kind=kind, memory=memory, device=device,
        tokens=tokens, limit=limit, seed=seed, max_shard_size=max_shard_size, overwrite=overwrite,
        resume=resume, json=json, quiet=quiet,
    )  # fmt: skip
