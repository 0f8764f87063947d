"""The options of ``mergesafe tune`` and of ``mergesafe generate``, which makes its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli.environment import VARIABLES
from mergesafe.cli.optional_value import Ray, RayCommand
from mergesafe.cli.shared import Debug, Json, Quiet, RecipeArgument, TokenMismatch, guarded


def register(app: typer.Typer) -> None:
    """Add them."""
    app.command(cls=RayCommand, epilog="Example: mergesafe tune recipe.yml -o tuned.yml --explain")(
        tune
    )
    app.command(epilog="Example: mergesafe generate data.yml --out data/")(generate)


@guarded
def tune(
    recipe: RecipeArgument,
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="TUNED", help="File of the tuned recipe.")
    ],
    device: Annotated[
        str,
        typer.Option(
            envvar=VARIABLES["--device"],
            help="auto (a GPU where there is one), cpu, cuda or cuda:N.",
        ),
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(help="Number type of the model's matrix products: auto, float32 or bfloat16."),
    ] = "auto",
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Bytes for task vectors; what does not fit is read each time."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="In place of the recipe's.")] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace TUNED if it exists; forget a run that did not finish."
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an unfinished run of the same recipe.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show which model and layer the safety loss is due to."),
    ] = False,
    allow_token_mismatch: TokenMismatch = False,
    ray: Ray = None,
    report: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the run as JSON for mergesafe report."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the coefficients of RECIPE that keep skill and safety, as its section 'tune' says.

    TUNED is a plain recipe with the numbers filled in: merge it with mergesafe or mergekit. Exit
    status 3 when a constraint cannot be met; TUNED is then the nearest that was found. With
    'search: none' no model is run: TUNED has the start, such as weights by 'init: metagpt'.
    """
    from mergesafe.cli.tune import run

    run(
        recipe, out, report, device=device, dtype=dtype, memory=memory, seed=seed,
        overwrite=overwrite, resume=resume, explain=explain,
        allow_token_mismatch=allow_token_mismatch, ray=ray, json=json, quiet=quiet,
    )  # fmt: skip


@guarded
def generate(
    recipe: Annotated[
        Path, typer.Argument(metavar="DATA", help="A data recipe in YAML: sets, models, judge.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Default: 'out' of DATA, else its name without .yml."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from a run that did not finish.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace sets that exist; start anew.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make safety and domain sets as JSON lines, with provenance and data cards.

    Models are folders, Hub ids, OpenAI-compatible endpoints, or shipped templates.
    """
    from mergesafe.cli.generate import run

    run(recipe, out, resume=resume, overwrite=overwrite, json=json, quiet=quiet)
