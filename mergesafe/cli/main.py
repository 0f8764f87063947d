"""``mergesafe``: the command line. Each command lives in a module that is imported when it runs."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mergesafe.cli.aligner import app as aligner
from mergesafe.cli.commands import calibration, merges, models, pages, parents, tokenizers, tuning
from mergesafe.cli.inspector import app as inspector
from mergesafe.cli.shared import INTERRUPTED, answer, fail, print_errors, say
from mergesafe.cli.streams import open_standard_streams
from mergesafe.cli.threads import set_thread_defaults
from mergesafe.cli.usage import Commands, UsageError, usage_paragraph
from mergesafe.errors import ArgumentError, MergesafeError, OutputError
from mergesafe.kernels_present import missing_kernels
from mergesafe.version import __version__

app = typer.Typer(
    name="mergesafe",
    help="Merge LLM checkpoints fast, in bounded memory, and keep the merged model safe.",
    cls=Commands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 internal error, 2 bad usage, recipe or input, 3 a requirement "
    "is not met or verify found a difference, 130 interrupted.",
)


def _version(show: bool) -> None:
    if show:
        print(f"mergesafe {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options of mergesafe itself."""
    if context.invoked_subcommand is None:
        print(context.get_help(), end="")
        raise typer.Exit(MergesafeError.exit_status)


for group in (merges, calibration, tokenizers, tuning, parents, models):
    group.register(app)
app.add_typer(inspector, name="inspector")
app.add_typer(aligner, name="aligner")
pages.register(app)


def main() -> None:
    """Entry point; Ctrl-C outside a command exits with the same status as inside."""
    open_standard_streams()
    wrong = missing_kernels(Path(__file__).parents[1])
    if wrong is not None:
        print_errors([wrong])
        sys.exit(MergesafeError.exit_status)
    set_thread_defaults()
    # At its end Python looks for cycles among all that was imported: a tenth of a short command.
    atexit.register(gc.freeze)
    try:
        sys.exit(_run())
    except typer.Exit as exit:
        sys.exit(exit.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)


def _run() -> Any:
    """The exit status of the command that was typed, or :class:`typer.Exit` with it."""
    answer.given = False
    json = "--json" in sys.argv[2:]  # behind the name of a command
    try:
        status = app(prog_name="mergesafe", standalone_mode=False)
        say()  # of help and version too, what cannot be printed is said
        return status
    except (ArgumentError, OutputError) as error:
        fail(error.paragraphs, error.exit_status, type(error).__name__, json=json)
    except UsageError as error:
        fail([usage_paragraph(error)], MergesafeError.exit_status, "UsageError", json=json)
