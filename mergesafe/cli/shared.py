"""What every command shares: exit statuses, error printing, common options."""

from __future__ import annotations

import functools
import json
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, NoReturn, TextIO, TypeVar

import typer

from mergesafe.cli.environment import VARIABLES, whence
from mergesafe.cli.streams import lead_nowhere
from mergesafe.errors import MergesafeError
from mergesafe.extras import missing_package
from mergesafe.references import redact_values
from mergesafe.system_faults import explained
from mergesafe.terminal.text import printable

INTERNAL_ERROR: Final = 1
INTERRUPTED: Final = 130
#: Extras with all that a command needs, where code asks for a part of it first.
_EXTRAS: Final = {"tune": "tune", "calibrate": "models", "vet": "models"}
#: What others said, which is told as it is.
NOT_OURS: Final = ("examples",)
INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A merge recipe in YAML (mergekit's format).")
]
ReadableRecipe = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A merge recipe in YAML (mergekit's format); - reads standard input."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        envvar=VARIABLES["--memory"],
        help="Bytes for buffers, e.g. 2GiB (default: 4GiB or half of what is free).",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", envvar=VARIABLES["--threads"], help="Default: all processors."
    ),
]
ShardSize = Annotated[
    str, typer.Option("--max-shard-size", metavar="SIZE", help="Largest output file.")
]
TokenMismatch = Annotated[
    bool,
    typer.Option(
        "--allow-token-mismatch",
        help="Merge models whose tokenizers give one id to different tokens, with a warning.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of DARE's random masks.")]

Command = TypeVar("Command", bound=Callable[..., Any])


def guarded(command: Command) -> Command:
    """Turn exceptions into one paragraph on standard error and the documented exit status."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for number in INTERRUPTS:
            # nohup, or a job in the background of a script: whoever ignores a signal means it.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _interrupt)
        warnings.showwarning = _show_warning
        answer.given = False
        json = kwargs.get("json", False)
        try:
            result = command(*args, **kwargs)
            say()
            return result
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as interrupt:
            text = str(interrupt) or "interrupted; nothing is left half-written"
            fail([text], INTERRUPTED, "Interrupted", json=json)
        except Exception as error:
            _report(error, command.__name__, kwargs.get("debug", False), json)

    return wrapper  # type: ignore[return-value]  # same signature by functools.wraps


def _report(error: Exception, command: str, debug: bool, json: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    told = explained(error)
    if isinstance(error, ModuleNotFoundError) and told is not None:
        told = missing_package(error, "this command", _EXTRAS.get(command)) or told
    if told is not None:
        paragraphs = [f"{text}{whence(text)}" for text in told.paragraphs]
        fail(paragraphs, told.exit_status, type(told).__name__, json=json, where=told)
    text = (
        f"internal error ({type(error).__name__}: {error}). This is a bug in mergesafe: "
        "please report it with the output of the same command with --debug."
    )
    fail([text], INTERNAL_ERROR, "InternalError", json=json)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP clean up like Ctrl-C; none disturbs the cleaning up that has begun."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@dataclass
class Answer:
    """Whether standard output has its one JSON object."""

    given: bool = False


answer: Final = Answer()


def fail(
    paragraphs: Sequence[str],
    status: int,
    kind: str,
    *,
    json: bool = False,
    where: Exception | None = None,
) -> NoReturn:
    """Print ``mergesafe: error: paragraph`` for each, and exit.

    ``json``: standard output gets an object that says the same, unless it has the result already,
    as that of a gate that is not passed. ``where``: its ``source`` and ``line`` are named in it.
    """
    print_errors(paragraphs)
    if json and not answer.given:
        source, line = (getattr(where, name, None) for name in ("source", "line"))
        told = {
            "type": kind,
            "status": status,
            "messages": list(map(printable, paragraphs)),
            "file": None if source is None else str(source),
            "line": line,
        }
        with suppress(MergesafeError):  # that it cannot be printed changes no status
            print_json({"error": told})
    raise typer.Exit(status)


def print_errors(paragraphs: Iterable[str]) -> None:
    with suppress(MergesafeError):  # the error at hand is worth more than what was printed before
        sys.stdout.flush()
    _print_on_stderr(f"mergesafe: error: {printable(paragraph)}" for paragraph in paragraphs)


def say(*lines: str) -> None:
    """Print lines on standard output.

    Raises:
        OutputError: it cannot be written.
    """
    for line in lines:
        print(line)
    sys.stdout.flush()


def print_json(value: Any) -> None:
    answer.given = True
    # ASCII: a path need not be valid Unicode
    say(json.dumps(redact_values(value, NOT_OURS), indent=2))


def warn(messages: tuple[str, ...] | list[str]) -> None:
    _print_on_stderr(f"mergesafe: warning: {printable(message)}" for message in messages)


def note(messages: tuple[str, ...] | list[str]) -> None:
    """What a user should know although nothing is wrong."""
    _print_on_stderr(f"mergesafe: note: {printable(message)}" for message in messages)


_PACKAGE: Final = Path(__file__).parents[1]
_show_other_warning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings of ours are for users: without the place in the code that other libraries' have."""
    if file is None and Path(filename).is_relative_to(_PACKAGE):
        warn([str(message)])
    else:
        _show_other_warning(message, category, filename, lineno, file, line)


def _print_on_stderr(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            print(line, file=sys.stderr)
    except OSError:  # there is nowhere to say that nothing can be said
        with suppress(OSError, ValueError):  # a stream without a descriptor
            lead_nowhere(sys.stderr.fileno())  # else Python's own last flush changes the status
