"""The command itself: whatever words it is given, it ends with a status that is documented."""

from __future__ import annotations

import contextlib
import io
import json
import signal
from pathlib import Path

from fuzz.target import target
from mergesafe.cli import main as command
from mergesafe.cli.usage import UsageError
from mergesafe.errors import ArgumentError

#: Commands that load models, wait or ask a network are not run, whatever else is wrong.
_COMMANDS = ("plan", "verify", "report", "gate", "similarity", "merge", "generate", "tune", "vet")


@target("command", ".json")
def words(data: bytes, folder: Path) -> str:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(given, list) or not given or str(given[0]) not in _COMMANDS:
        return "no command"
    # As the system gives them: text without zero bytes.
    arguments = [
        str(each).replace("\0", "").encode("utf-8", "replace").decode() for each in given[:20]
    ]
    if any("://" in each or "ray" in each or "/dev" in each for each in arguments):
        return "network"
    return str(status([each.replace("FOLDER", str(folder)) for each in arguments], folder))


def status(arguments: list[str], folder: Path) -> int:
    """The exit status of a command that is run in this process, in ``folder``."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    here = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(here),
        contextlib.redirect_stderr(here),
    ):
        try:
            found = command.app(arguments, prog_name="mergesafe", standalone_mode=False)
        except (UsageError, ArgumentError):
            found = 2
        except SystemExit as error:
            found = error.code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    code = found if isinstance(found, int) else 0
    assert code in (0, 2, 3), f"status {code}: {here.getvalue()[-300:]}"
    return code
