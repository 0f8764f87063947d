"""Named errors.

Every error a user can cause is a :class:`MergesafeError` whose message is one paragraph that says
what is wrong, where (file, tensor, recipe line), what was expected and what to do. The command
line prints it without a traceback and exits with :attr:`MergesafeError.exit_status`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from mergesafe.references import redact_text

#: Mistakes of one recipe that are reported in full.
MAX_REPORTED: Final = 10


class MergesafeError(Exception):
    """Base class: bad usage, recipe or input (exit status 2).

    Messages go to screens, logs and files: what is secret in a URL is not in them, whoever wrote
    them.
    """

    exit_status = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact_text(arg) if isinstance(arg, str) else arg for arg in args))

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The message, as one text for each mistake."""
        return (str(self),)

    def reword(self, change: Callable[[str], str]) -> None:
        """Put ``change`` of it in place of every paragraph."""
        if self.args:
            self.args = (change(str(self)), *self.args[1:])


class MergesafeWarning(UserWarning):
    """What may make a result wrong, where a function of Python returns the result alone."""


class RecipeError(MergesafeError):
    """The recipe is not valid; every paragraph of the message starts with ``file:line:``.

    One error may tell of several mistakes; ``source`` and ``line`` are those of the first.
    """

    def __init__(self, message: str, *, source: Path | str | None = None, line: int | None = None):
        self.source = source
        self.line = line
        where = "recipe" if source is None else str(source)
        text = f"{where}:{line}: {message}" if line else f"{where}: {message}"
        self._paragraphs: tuple[str, ...] = (redact_text(text),)
        super().__init__(message)

    def __str__(self) -> str:
        return "\n".join(self._paragraphs)

    @property
    def paragraphs(self) -> tuple[str, ...]:
        return self._paragraphs

    def reword(self, change: Callable[[str], str]) -> None:
        self._paragraphs = tuple(map(change, self._paragraphs))

    @classmethod
    def joined(cls, errors: Iterable[RecipeError], *, stopped: bool = False) -> RecipeError:
        """One error of at least one, in line order, each mistake told once.

        ``stopped``: there may be others, because reading ended early. A joined error among several
        stands for what it tells.
        """
        distinct = sorted({str(e): e for e in errors}.values(), key=lambda error: error.line or 0)
        first = distinct[0]
        told = [text for error in distinct for text in error.paragraphs]
        more = len(told) - MAX_REPORTED
        joined = cls(first.args[0], source=first.source, line=first.line)
        joined._paragraphs = tuple(told[:MAX_REPORTED])
        if more > 0 or stopped:
            rest = "and more; reading stopped here" if stopped else f"and {more} more"
            joined._paragraphs += (str(cls(rest, source=first.source)),)
        return joined


class CheckpointError(MergesafeError):
    """An input checkpoint, adapter or one of its tensors is missing, malformed or mismatched.

    One error may tell of several inputs.
    """

    _joined: tuple[str, ...] = ()

    @property
    def paragraphs(self) -> tuple[str, ...]:
        return self._joined or (str(self),)

    def reword(self, change: Callable[[str], str]) -> None:
        if self._joined:
            self._joined = tuple(map(change, self._joined))
            self.args = ("\n".join(self._joined),)
        else:
            super().reword(change)

    @classmethod
    def joined(cls, errors: Sequence[CheckpointError]) -> CheckpointError:
        """One error of at least one, in their order; what a joined one tells is told apart."""
        if len(errors) == 1:
            return errors[0]
        told = list(dict.fromkeys(text for error in errors for text in error.paragraphs))
        more = len(told) - MAX_REPORTED
        told[MAX_REPORTED:] = [f"and {more} more"] if more > 0 else []
        joined = cls("\n".join(told))
        joined._joined = tuple(told)
        return joined


class UnreadableError(CheckpointError):
    """The system could not read an input that is there: says nothing about its content, so nothing
    may be concluded from it.
    """


class ChangedInputError(CheckpointError):
    """An input was written to during the merge: what was made of it may be a mixture."""


class NonFiniteError(CheckpointError):
    """NaN or infinity in an input, or produced by rounding to the output dtype."""


class OutputError(MergesafeError):
    """The output folder cannot be written: exists, not writable, disk full."""


class BackendError(MergesafeError):
    """A forced backend, device or instruction set is unknown or not available here."""


class ResourceError(MergesafeError):
    """The system refused memory, threads or files; the message says what to ask less of."""


class DeviceMemoryError(MergesafeError):
    """A device ran out of memory; the message says what the output needed."""


class ClusterError(MergesafeError):
    """A cluster cannot be reached, lost a task too often, or does not see the files."""


class ModelError(MergesafeError):
    """A model or endpoint cannot answer: not loadable, no chat template, unreachable."""


class JudgeError(ModelError):
    """A judge cannot judge; says nothing about the model whose answers it was to judge."""


class DataError(MergesafeError):
    """A data file is malformed; the message starts with ``file:line:`` where there is a line."""

    def __init__(self, message: str, *, source: Path | str | None = None, line: int | None = None):
        self.source = source
        self.line = line
        super().__init__(message)

    def reword(self, change: Callable[[str], str]) -> None:
        self.args = (change(str(self.args[0])), *self.args[1:])

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.source, self.line) if part is not None)
        return redact_text(f"{where}: {self.args[0]}") if where else str(self.args[0])


class RequirementError(MergesafeError):
    """A requirement or constraint is not met (exit status 3); the message names it."""

    exit_status = 3


class TuningError(MergesafeError):
    """Coefficients cannot be tuned: no gradient for a method, a loss that is not finite."""


class PointError(TuningError):
    """The merge has no value at these coefficients; a search may pass over them."""


class LossError(PointError):
    """A loss is not finite; the coefficients were left as they are."""


class MethodError(MergesafeError):
    """A merge method breaks its contract: what it asks for or returns does not fit its inputs."""


class GuardedError(MergesafeError):
    """A function in a process of its own gave no answer; the message is the end of a sentence."""


class TookTooLong(GuardedError):
    """It was stopped when its time was over."""


class TookTooMuch(GuardedError):
    """It needed more memory than it may have, or its answer was too large."""


class Crashed(GuardedError):
    """Its process ended, or answered what no function answers."""


class Raised(GuardedError):
    """It raised an error: ``name`` is the name of its class, ``words`` what it says."""

    def __init__(self, name: str, words: str):
        self.name, self.words = name, words
        super().__init__(f"{name}: {words}" if words else name)


class KernelsError(MergesafeError, ImportError):
    """The compiled kernels are missing beside the package, or cannot be loaded."""


class PackageError(MergesafeError, ImportError):
    """A package that an extra brings is not installed; the message names the extra."""


class ArgumentError(MergesafeError, ValueError):
    """An argument of a public function or a command-line option has an invalid value."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` most resembles, if it resembles any; TIES resembles ties."""
    names = sorted(known)
    lower = {name.lower(): name for name in reversed(names)}
    # The comparison takes quadratic time, and the word may come from a hostile file.
    word = word[:1000]
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    close += [lower[e] for e in get_close_matches(word.lower(), lower, n=1, cutoff=0.6)]
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'density'?)"`` for the nearest known word, else the list of known words."""
    names = sorted(known)
    close = nearest(word, names)
    if close is not None:
        return f" (did you mean '{close}'?)"
    return f" (known: {', '.join(names)})" if names else ""
