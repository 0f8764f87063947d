"""Named errors.

Every error a user can cause is a :class:`MergesafeError` whose message is one paragraph that says
what is wrong, where (file, tensor, recipe line), what was expected and what to do. The command
line prints it without a traceback and exits with :attr:`MergesafeError.exit_status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class MergesafeError(Exception):
    """Base class: bad usage, recipe or input (exit status 2)."""

    exit_status = 2


class RecipeError(MergesafeError):
    """The recipe is not valid; the message starts with ``file:line:``."""

    def __init__(self, message: str, *, source: Path | str | None = None, line: int | None = None):
        self.source = source
        self.line = line
        where = "recipe" if source is None else str(source)
        super().__init__(f"{where}:{line}: {message}" if line else f"{where}: {message}")


class CheckpointError(MergesafeError):
    """An input checkpoint, adapter or one of its tensors is missing, malformed or mismatched."""


class NonFiniteError(CheckpointError):
    """NaN or infinity in an input, or produced by rounding to the output dtype."""


class OutputError(MergesafeError):
    """The output folder cannot be written: exists, not writable, disk full."""


class BackendError(MergesafeError):
    """A forced backend, device or instruction set is unknown or not available here."""


class DeviceMemoryError(MergesafeError):
    """A device ran out of memory; the message says what the output needed."""


class ArgumentError(MergesafeError, ValueError):
    """An argument of a public function or a command-line option has an invalid value."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'density'?)"`` for the nearest known word, else the list of known words."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""
