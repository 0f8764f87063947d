"""What every command shares: exit statuses, error printing, common options."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Annotated, Any, Final, TypeVar

import typer

from mergesafe.errors import MergesafeError

INTERNAL_ERROR: Final = 1
INTERRUPTED: Final = 130
INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Bytes for buffers, e.g. 2GiB (default: 4GiB or half of what is free).",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="Default: all processors.")
]
ShardSize = Annotated[
    str, typer.Option("--max-shard-size", metavar="SIZE", help="Largest output file.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of random masks (DARE).")]

Command = TypeVar("Command", bound=Callable[..., Any])


def guarded(command: Command) -> Command:
    """Turn exceptions into one paragraph on standard error and the documented exit status."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for number in INTERRUPTS:
            signal.signal(number, _interrupt)
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:  # whoever read standard output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt as interrupt:
            fail(str(interrupt) or "interrupted; nothing is left half-written", INTERRUPTED)
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            if isinstance(error, MergesafeError):
                print_errors(error.paragraphs)
                raise typer.Exit(error.exit_status) from None
            fail(
                f"internal error ({type(error).__name__}: {error}). This is a bug in mergesafe: "
                "please report it with the output of the same command with --debug.",
                INTERNAL_ERROR,
            )

    return wrapper  # type: ignore[return-value]  # same signature by functools.wraps


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """SIGTERM cleans up like Ctrl-C, and neither disturbs the cleaning up that has begun."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def fail(message: str, status: int) -> None:
    """Print ``mergesafe: error: message`` and exit."""
    print_errors([message])
    raise typer.Exit(status)


def print_errors(paragraphs: Iterable[str]) -> None:
    sys.stdout.flush()
    for paragraph in paragraphs:
        print(f"mergesafe: error: {printable(paragraph)}", file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))  # ASCII: a path need not be valid Unicode


def warn(messages: tuple[str, ...] | list[str]) -> None:
    for message in messages:
        print(f"mergesafe: warning: {printable(message)}", file=sys.stderr)


def printable(message: str) -> str:
    """One line: names of tensors and files come from strangers and may hold terminal commands."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
